"""When verdicts belong to one incident, and what is on disk with each."""

from __future__ import annotations

import os

import pytest

from distwatch.observer import daemon, judging
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.recording import Recording
from distwatch.observer.journals.run_state import load_state
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.diagnosis.test_calm import training_job
from tests.observer.test_late_news import fold


def finding(code: str, *culprits: int) -> Finding:
    return Finding(code=code, severity="hang", summary="s", advice="a", culprit_ranks=culprits)


@pytest.mark.parametrize(
    ("verdicts", "incidents"),
    [
        pytest.param(
            [("p2p.unmatched", 1), ("process.data_stall", 1), ("p2p.unmatched", 1)],
            1,
            id="better word",
        ),
        pytest.param(
            [("collective.rank_missing", 1), ("collective.rank_missing", 2)], 2, id="other culprit"
        ),
    ],
)
def test_what_belongs_to_one_incident(
    verdicts: list[tuple[str, int]],
    incidents: int,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = iter([[finding(code, rank)] for code, rank in verdicts])
    monkeypatch.setattr(judging, "diagnose", lambda state: next(found))
    recording = Recording(folder, lambda *_: None)
    judge = judging.Judge(folder, RunState(run_id="r"), recording)
    for _ in verdicts:
        assert judge.judge(), "each verdict is another one"
        judge.keep()
    recording.close()
    assert len(os.listdir(folder.incidents)) == incidents


def test_the_newest_of_everything_is_on_disk_with_a_verdict(folder: RunFolder) -> None:
    recording = Recording(folder, lambda *_: None)
    for n in range(3):
        # What repeats is journaled every few seconds only.
        recording.record(ev.ProcessSampled(process="h-1.1", state="S", syscall=f"call {n}"))
    judge = judging.Judge(folder, hung_job().state, recording)
    assert judge.judge()
    judge.keep()
    recording.close()
    sample = load_state(folder).processes["h-1.1"].outside.sample
    assert sample is not None
    assert sample.syscall == "call 2"


def test_very_many_ranks_that_go_on_are_not_judged_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(judging.time, "monotonic", lambda: now[0])
    job = training_job()
    recording = Recording(folder, lambda *_: None)
    judge = judging.Judge(folder, job.state, recording)
    assert not judge.may_rest(), "nothing was judged yet"
    judge.judge()
    assert not judge.may_rest(), "few ranks are judged each time"
    monkeypatch.setattr(judging, "LONG_S", -1.0)
    judge.judge()
    for event in (ev.Ticked(host="h"), ev.PulseRead(process="h-1.1", pulse=ev.Pulse())):
        judge.note(event)
    assert judge.may_rest()
    judge.note(ev.ProcessEnding())
    assert not judge.may_rest(), "news"
    judge.judge()
    assert judge.may_rest()
    now[0] += judging.WHOLE_EVERY_S + 0.1
    assert not judge.may_rest(), "the whole is due"
    recording.close()


@pytest.mark.parametrize(("apart_s", "is_told"), [(60.0, False), (-1.0, True)])
async def test_where_judging_takes_long_a_verdict_is_told_before_the_stacks_come(
    apart_s: float, is_told: bool, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "APART_S", apart_s)
    fold(observer, hung_job())
    observer.tick()
    assert observer.inspection.running
    assert [f.code for f in observer.judge.findings if f.blocks] == ["collective.rank_missing"]
    assert (observer.state.judged is not None) == is_told


def test_news_that_a_wait_has_passed_its_deadline_is_seen_without_judging(
    folder: RunFolder,
) -> None:
    """At 20 s rank 0 begins to wait; it may for 10 s, and is suspicious after 5."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    recording = Recording(folder, lambda *_: None)
    judge = judging.Judge(folder, job.state, recording)
    for now, before, passed in ((22.0, 24.9, 25.1), (26.0, 29.9, 30.1)):
        job.pulse(0, at=now, groups={"0": (6, 5, 20.0)})
        job.pulse(1, at=now, groups={"0": (5, 5, 19.9)})
        job.tick(now)
        judge.judge()
        job.tick(before)
        assert not judge.has_passed_limit()
        job.tick(passed)
        assert judge.has_passed_limit()
    judge.judge()
    job.tick(60.0)
    assert not judge.has_passed_limit(), "it is overdue: no more time makes a difference"
    recording.close()


def test_the_wait_of_a_rank_that_has_ended_passes_no_limit(folder: RunFolder) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    recording = Recording(folder, lambda *_: None)
    judge = judging.Judge(folder, job.state, recording)
    job.pulse(0, at=22.0, groups={"0": (6, 5, 20.0)})
    job.pulse(1, at=22.0, groups={"0": (5, 5, 19.9)})
    job.exit(0, 23.0, signal=9)
    judge.judge()
    job.tick(60.0)
    assert not judge.has_passed_limit()
    recording.close()
