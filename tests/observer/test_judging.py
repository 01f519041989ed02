"""When verdicts belong to one incident, and what is on disk with each."""

from __future__ import annotations

import os

import pytest

from distwatch.observer import judging
from distwatch.observer.journals.recording import Recording
from distwatch.observer.journals.run_state import load_state
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.diagnosis.recorded import hung_job
from tests.diagnosis.test_calm import training_job


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
