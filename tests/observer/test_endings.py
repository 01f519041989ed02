"""Who is ended for a hang, and who never is; which hosts are marked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.observer.responses import drains
from distwatch.observer.responses.drains import Drains, nodes_to_drain
from distwatch.observer.responses.endings import CulpritEnder, culprits_to_end, kill
from distwatch.runfolder import RunFolder, start_ticks
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from tests.diagnosis.recorded import RecordedJob, hung_job, judged
from tests.observer.rank_process import RankProcess
from tests.support.leftovers import wait_gone

Start = Callable[..., RankProcess]


def asking(job: RecordedJob, setting: str, *ranks: int) -> RecordedJob:
    """The same job, in which those ranks have read that DISTWATCH_ON_HANG."""
    for rank in ranks:
        started = job.state.processes[job.key(rank)].started
        assert started is not None
        job.say(rank, 30.5, msgspec.structs.replace(started, on_hang=setting))
    return job


def ended_ranks(job: RecordedJob, *findings: Finding) -> list[int | None]:
    cases = cases_of(job.state)
    return [process.global_rank for f in findings for process in culprits_to_end(f, cases)]


def test_the_culprit_and_nobody_else() -> None:
    job = asking(hung_job(), "abort", 0, 1, 2, 3)
    assert ended_ranks(job, *judged(job)) == [2]


@pytest.mark.parametrize("setting", ["report", "raise"])
def test_a_rank_that_did_not_ask_is_left_alone(setting: str) -> None:
    job = asking(hung_job(), setting, 0, 1, 2, 3)
    assert ended_ranks(job, *judged(job)) == []
    job = asking(hung_job(), "abort", 0, 1, 3)
    assert ended_ranks(job, *judged(job)) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"severity": "warning"}, id="warning"),
        pytest.param({"severity": "crash"}, id="crash"),
        pytest.param({"confidence": 0.6}, id="doubt"),
        pytest.param({"role": "symptom"}, id="symptom"),
        pytest.param({"code": "rendezvous.rank_missing"}, id="init"),
        pytest.param({"code": "group.call_missing"}, id="group"),
        pytest.param({"culprit_ranks": ()}, id="nobody"),
        pytest.param({"culprit_ranks": (9,)}, id="unseen rank"),
    ],
)
def test_never_for_this(change: dict[str, object]) -> None:
    job = asking(hung_job(), "abort", 0, 1, 2, 3)
    (found,) = judged(job)
    assert ended_ranks(job, msgspec.structs.replace(found, **change)) == []


def test_an_ended_or_attached_process_is_not_ended() -> None:
    job = asking(hung_job(), "abort", 0, 1, 2, 3)
    found = judged(job)
    started = job.state.processes[job.key(2)].started
    assert started is not None
    job.say(2, 31.0, msgspec.structs.replace(started, on_hang="abort", attached=True))
    assert ended_ranks(job, *found) == []
    job.say(2, 31.5, msgspec.structs.replace(started, on_hang="abort"))
    job.exit(2, 32.0, code=1)
    assert ended_ranks(job, *found) == []


async def test_a_rank_that_came_after_the_incident_is_left_alone(folder: RunFolder) -> None:
    job = asking(hung_job(), "abort", 0, 1, 2, 3)
    (found,) = judged(job)
    recording = Recording(folder, lambda *_: None)
    ender = CulpritEnder(recording, None, dict)  # type: ignore[arg-type]
    away = [order.global_rank for order in ender.consider(1, [found], cases_of(job.state))]
    assert away == [2], "on another host: that one's observer is asked"
    assert ender.consider(1, [found], cases_of(job.state)) == [], "once"
    # The launcher starts rank 2 again, while the verdict still names it.
    again = msgspec.structs.replace(found, culprit_ranks=(5,))
    job.start(5, at=33.0)
    asking(job, "abort", 5)
    assert ender.consider(1, [again], cases_of(job.state)) == []
    recording.close()


async def test_only_a_process_that_asked_is_ended_for_a_root(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank(0, 2)
    observer.act_on_incidents({})
    observer.tick()
    observer.responses.obey(rank.key, 1, "collective.rank_missing", "rank 0 …")
    assert not observer.responses.holds_on()
    rank.do("on_hang abort")
    observer.tick()
    observer.responses.obey("nobody-1.1", 1, "c", "s")
    observer.responses.obey(rank.key, 1, "collective.rank_missing", "rank 0 …")
    assert observer.responses.holds_on()
    while observer.responses.holds_on():
        await asyncio.sleep(0.01)
    assert wait_gone(rank.pid, 60)
    aborted = observer.state.processes[rank.key].outside.aborted
    # It has no agent's thread that could answer, as a rank that holds the GIL has none.
    assert aborted is not None
    assert (aborted.how, aborted.incident) == ("killed", 1)


async def test_an_observer_that_only_looks_ends_nobody(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank(0, 2)
    rank.do("on_hang abort")
    observer.tick()
    observer.responses.obey(rank.key, 1, "collective.rank_missing", "rank 0 …")
    assert not observer.responses.holds_on()
    assert rank.do("on_hang abort") == "ok"


def test_a_pid_that_was_used_again_is_another_process(start_rank: Start) -> None:
    rank = start_rank(0, 2)
    other = Tracked(key="k", pid=rank.pid, ticks=start_ticks(rank.pid) - 1, role="rank")
    assert kill(other) == "the process is gone"
    assert rank.do("on_hang report") == "ok"
    os.kill(rank.pid, signal.SIGSTOP)
    assert kill(Tracked(key="k", pid=rank.pid, ticks=start_ticks(rank.pid), role="rank")) == ""
    assert wait_gone(rank.pid, 60)


# ---- restart-node ----------------------------------------------------------------------------


def lost(**more: object) -> Finding:
    given = {"severity": "hang", "culprit_ranks": (2,), "confidence": 0.9, **more}
    return Finding(code=given.pop("code", "device.lost"), summary="GPU 3 fell off", **given)  # type: ignore[arg-type]


def test_which_hosts_are_drained() -> None:
    job = asking(hung_job(), "restart-node", 0, 1, 2, 3)
    cases = cases_of(job.state)
    host = job.host(2)
    assert nodes_to_drain(lost(), cases) == {host}
    assert nodes_to_drain(lost(severity="crash"), cases) == {host}
    assert nodes_to_drain(lost(code="network.link_error"), cases) == {host}
    assert nodes_to_drain(lost(severity="warning"), cases) == set()
    assert nodes_to_drain(lost(confidence=0.6), cases) == set()
    assert nodes_to_drain(lost(code="collective.rank_missing"), cases) == set()
    assert ended_ranks(job, lost()) == [2], "and the culprit ends, as with abort"
    assert nodes_to_drain(lost(), cases_of(asking(hung_job(), "abort", 0, 1, 2, 3).state)) == set()


async def test_a_host_is_marked_and_drained_once(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "PAUSES_S", (0.0, 0.0))
    job = asking(hung_job(), "restart-node", 0, 1, 2, 3)
    cases, host = cases_of(job.state), job.host(2)
    events: list[ev.Event] = []
    recording = Recording(folder, lambda _h, _s, _t, event: events.append(event))
    # The first call fails: draining is tried again.
    told = f'echo "$DISTWATCH_DRAIN_HOST $DISTWATCH_CODE" >> {tmp_path}/calls'
    drain = Drains(folder, job.state, recording, f"{told}; test $(wc -l < {tmp_path}/calls) = 2")
    for _ in range(3):
        drain.consider(1, [lost()], cases)
    while drain.holds_on():
        await asyncio.sleep(0.01)
    recording.close()
    assert (tmp_path / "calls").read_text() == f"{host} device.lost\n" * 2
    mark = json.loads(Path(folder.path, "drain", f"{host}.json").read_text())
    assert (mark["node"], mark["code"], mark["incident"]) == (host, "device.lost", 1)
    marks = [event for event in events if isinstance(event, ev.NodeMarked)]
    assert [bool(mark.drained) for mark in marks] == [False, True]
