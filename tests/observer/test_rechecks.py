"""Where a root rests, judging the whole would find nothing, whatever came since it last did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer import judging
from distwatch.observer.journals.recording import Recording
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader
from tests.diagnosis.recorded import HOST, RecordedJob
from tests.diagnosis.test_calm import beat

WORLD = 4
FAULTS = (
    ev.DevicesSampled(host=HOST, devices=(ev.Device(index=0, name="H200", xid=(79,)),)),
    ev.DevicesSampled(host=HOST, devices=(ev.Device(index=0, name="H200", lost="it fell off"),)),
    ev.DevicesSampled(host=HOST),
    ev.PortsSampled(host=HOST),
    ev.HostSampled(host=HOST, memory_total=1 << 30, memory_available=1, cpus=2, load=64.0),
)


class Watched:
    """A job, and the judge of an observer that is told of all of its events."""

    def __init__(self, folder: RunFolder) -> None:
        self.at = 20.0
        self.seq = 7
        self.stuck: set[int] = set()
        self.job = RecordedJob(WORLD)
        self.judge = judging.Judge(folder, self.job.state, Recording(folder, lambda *_: None))
        fold = self.job._fold

        def noted(header: FileHeader, at: float, event: ev.Event) -> None:
            fold(header, at, event)
            self.judge.note(event)

        self.job._fold = noted  # type: ignore[method-assign]
        self.job.initialize(*range(WORLD))

    def turn(self) -> None:
        """A round of an observer: it judges where it may not rest."""
        if not self.judge.may_rest():
            self.judge.judge()

    def all_beat(self, after_s: float) -> None:
        """Everyone who is not stuck goes on to the next collective."""
        self.at += after_s
        self.seq += 1
        for rank in range(WORLD):
            if rank not in self.stuck:
                beat(self.job, self.at, rank, groups={"0": (self.seq, self.seq - 1, self.at - 0.2)})
        self.job.tick(self.at)

    def stick(self, rank: int) -> None:
        self.stuck.add(rank)

    def wait_in_recv(self, rank: int) -> None:
        asked = self.job.peer(rank, "recv", 1, at=self.at - 0.9, posted=1)
        beat(self.job, self.at, rank, operations=(asked,))

    def sample(self, rank: int, state: str) -> None:
        self.job.sample(rank, self.at, state)

    def fault(self, number: int) -> None:
        self.job.see(self.at, FAULTS[number])

    def call_apart(self, rank: int) -> None:
        """All make one call, and one of them from another line."""
        for other in range(WORLD):
            self.job.say(other, self.at, ev.SiteSeen(number=1, site=_site(212)))
            self.job.say(other, self.at, ev.SiteSeen(number=2, site=_site(300)))
            sites = {1: 1, 2: 1, 3: 2 if other == rank else 1}
            calls = tuple(
                self.job.operation(other, "allreduce", seq, at=self.at, left=self.at, site=site)
                for seq, site in sites.items()
            )
            beat(self.job, self.at, other, operations=calls)

    def join_alone(self, rank: int) -> None:
        self.job.hold(rank, "9", (0, 1, 2, 3), desc="late", at=self.at)

    def end(self, rank: int) -> None:
        self.job.exit(rank, self.at, signal=9)


def _site(line: int) -> ev.Site:
    return ev.Site(file="/job/train.py", line=line, function="step")


RANK = st.integers(0, WORLD - 1)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just(Watched.all_beat), st.sampled_from((0.5, 1.0, 30.0, 400.0))),
        st.tuples(st.just(Watched.all_beat), st.just(0.5)),
        st.tuples(st.just(Watched.stick), RANK),
        st.tuples(st.just(Watched.wait_in_recv), RANK),
        st.tuples(st.just(Watched.sample), RANK, st.sampled_from("SRDTtZ")),
        st.tuples(st.just(Watched.fault), st.integers(0, len(FAULTS) - 1)),
        st.tuples(st.just(Watched.call_apart), RANK),
        st.tuples(st.just(Watched.join_alone), RANK),
        st.tuples(st.just(Watched.end), RANK),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def every_check_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LONG_S", -1.0)
    monkeypatch.setattr(judging, "RECHECK_S", 1e9)
    monkeypatch.setattr(judging, "WHOLE_EVERY_S", 1e9)


@pytest.mark.usefixtures("every_check_in_each_round")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(actions=ACTIONS)
def test_a_round_that_rests_gives_what_judging_the_whole_gives(
    actions: Sequence[tuple[Callable[..., None], object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = RunFolder(str(Path(tmp_path_factory.mktemp("root"), "run")))
    folder.create()
    watched = Watched(folder)
    watched.all_beat(0.5)
    watched.turn()
    for act, *given_ in actions:
        act(watched, *given_)
        watched.all_beat(0.5)
        watched.turn()
        whole = diagnose(watched.job.state)
        assert {_about(f) for f in watched.judge.findings} == {_about(f) for f in whole}


def _about(finding: judging.Finding) -> tuple[str, str, tuple[int, ...]]:
    return finding.code, finding.severity, finding.culprit_ranks


@pytest.mark.usefixtures("every_check_in_each_round")
def test_a_device_that_fails_while_all_ranks_go_on_ends_the_rest(folder: RunFolder) -> None:
    watched = Watched(folder)
    for _ in range(3):
        watched.all_beat(0.5)
        watched.turn()
    assert watched.judge.may_rest()
    watched.fault(0)
    assert not watched.judge.may_rest()
    watched.turn()
    assert [finding.code for finding in watched.judge.findings] == ["device.lost"]


@pytest.mark.usefixtures("every_check_in_each_round")
def test_each_round_runs_a_part_of_the_checks_and_goes_on_from_there(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(folder)
    watched.all_beat(0.5)
    watched.turn()
    monkeypatch.setattr(judging, "RECHECK_S", -1.0)  # one check a round
    watched.fault(0)
    rounds = 1
    while watched.judge.may_rest():
        rounds += 1
        assert rounds < 200
    assert rounds > 1
