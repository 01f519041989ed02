"""Looks at NCCL's RAS: two answers, since when counts are the same, whose answer counts."""

from __future__ import annotations

import os

import pytest

from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks import ras_looks
from distwatch.observer.looks.ras_looks import RasLooks
from distwatch.observer.targets.runs import load_state
from distwatch.probes.ras import NoAnswer, RasListener
from distwatch.runfolder import RunFolder, host_name
from distwatch.state import events as ev
from distwatch.state.hardware_events import RAS
from tests.doubles.ras_server import CommDouble, RasDouble, RasServerDouble


class Watch:
    """Looks at one double, which listens in this process."""

    def __init__(
        self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, *, shared: bool = False
    ) -> None:
        self.comm = CommDouble("aa12f0", [("10.0.0.1", os.getpid()), ("10.0.0.1", 77)], [9, 8])
        self.server = RasServerDouble(RasDouble([self.comm]))
        self.folder = folder
        self.events: list[ev.Event] = []
        self.recording = Recording(folder, lambda _h, _s, _t, event: self.events.append(event))
        self.recording.record(ev.ObserverStarted(host=host_name(), pid=os.getpid()))
        listener = RasListener(
            address="127.0.0.1", port=self.server.port, pid=os.getpid(), shared=shared
        )
        monkeypatch.setattr(ras_looks, "find_listeners", lambda _: [listener])
        monkeypatch.setattr(ras_looks, "PAUSES_S", (0.0,))
        self.looks = RasLooks(self.recording)

    async def look(self, *pids: int) -> None:
        self.looks.consider("a rank waits", pids, on_nccl=True)
        assert self.looks._looking is not None
        await self.looks._looking

    @property
    def answers(self) -> list[ev.CommunicatorsSeen]:
        return [event for event in self.events if isinstance(event, ev.CommunicatorsSeen)]

    def close(self) -> dict[str, str]:
        """What was not observed, as it stands on the disk."""
        self.server.close()
        self.looks.close()
        self.recording.close()
        host = load_state(self.folder).hosts.get(host_name())
        return host.not_observed if host else {}


async def test_counts_that_are_the_same_twice_last_since_the_first_look(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(folder, monkeypatch)
    await watch.look(os.getpid())
    await watch.look(os.getpid())
    watch.comm.launched = [9, 9]
    await watch.look(os.getpid())
    first, second, third = (answer.communicators[0].still_since_ns for answer in watch.answers)
    assert first == second < third
    assert watch.close() == {}


async def test_the_answer_of_another_job_at_a_shared_port_does_not_count(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(folder, monkeypatch, shared=True)
    await watch.look(4711)
    assert watch.answers == []
    assert "another job shares the port" in watch.close()[RAS]


async def test_of_a_shared_port_an_answer_that_names_this_job_counts(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(folder, monkeypatch, shared=True)
    await watch.look(os.getpid())
    assert len(watch.answers) == 1
    assert watch.close() == {}


@pytest.mark.parametrize("on_nccl", [True, False])
async def test_that_nobody_answers_is_told_of_a_job_on_nccl_alone(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, on_nccl: bool
) -> None:
    watch = Watch(folder, monkeypatch)

    def nobody(_: object) -> list[RasListener]:
        raise NoAnswer("no process of the job listens")

    monkeypatch.setattr(ras_looks, "find_listeners", nobody)
    watch.looks.consider("a rank waits", [1], on_nccl=on_nccl)
    assert watch.looks._looking is not None
    await watch.looks._looking
    assert (RAS in watch.close()) == on_nccl


async def test_nothing_is_asked_without_a_reason(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(folder, monkeypatch)
    watch.looks.consider("", [os.getpid()], on_nccl=True)
    assert watch.looks._looking is None
    watch.close()
    assert watch.server.said == []
