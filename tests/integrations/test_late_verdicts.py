"""A call of torch's whose deadline has passed waits for an observer that is slow, and for no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from distwatch.agent.initialization import missing_ranks
from distwatch.agent.initialization.missing_ranks import ask_until
from distwatch.errors import InitTimeout
from distwatch.integrations.torch_deadlines import _Hang
from distwatch.runfolder import RunFolder
from distwatch.state.finding import Finding
from distwatch.state.verdict import ReportedStatus, Verdict

ROOT = Finding(
    code="group.call_missing", culprit_ranks=(1,), waiting_ranks=(0,), summary="rank 1 never came"
)
SYMPTOM = Finding(
    code="group.call_missing", role="symptom", waiting_ranks=(2,), summary="rank 3 never came"
)
STALLED = ReportedStatus(global_rank=1, word="running", where="job.py:7 in stall", host="a", pid=41)
TOO_SLOW = TimeoutError("timed out")
NOBODY = ConnectionRefusedError("nobody listens")


def verdict(*findings: Finding) -> Verdict:
    return Verdict(host="a", findings=findings, rank_statuses=(STALLED,))


class Answers:
    """What an observer answers, one after the other; an error is raised."""

    def __init__(self, *answers: Verdict | Exception) -> None:
        self.left = list(answers)

    def __call__(self, *_: Any) -> bytes:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return msgspec.msgpack.encode(answer)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(missing_ranks, "_AGAIN_S", 0.0)
    return RunFolder(str(tmp_path))


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Verdict | Exception) -> Answers:
    observer = Answers(*answers)
    monkeypatch.setattr(missing_ranks, "ask_observer", observer)
    return observer


def error_of_a_late_call(folder: RunFolder) -> InitTimeout:
    agent: Any = SimpleNamespace(folder=folder, record=lambda _: None)
    return _Hang(agent, "new_group", 4.0, None, "raise")._timeout("")


def test_the_missing_rank_is_named_by_an_observer_that_answers_late(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = answering(
        monkeypatch, TOO_SLOW, verdict(), verdict(SYMPTOM), TOO_SLOW, verdict(ROOT, SYMPTOM)
    )
    error = error_of_a_late_call(folder)
    assert (error.missing, error.arrived) == ((1,), (0,))
    assert error.places[1] == "running at job.py:7 in stall (pid 41 on a)"
    assert str(error).startswith("new_group did not finish within 4 s: rank 1 never came")
    assert not observer.left


def test_without_an_observer_the_error_does_not_wait(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = answering(monkeypatch, NOBODY, verdict(ROOT))
    error = error_of_a_late_call(folder)
    assert error.missing == ()
    assert "no observer knows why" in str(error)
    assert len(observer.left) == 1


def test_the_last_word_of_an_observer_that_ends_meanwhile_is_kept(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, verdict(SYMPTOM), NOBODY)
    assert "rank 3 never came" in str(error_of_a_late_call(folder))


def test_nobody_is_asked_again_once_time_is_up_or_the_call_is_over(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ({"within_s": 0.0}, {"is_over": lambda: True}):
        observer = answering(monkeypatch, verdict(SYMPTOM), verdict(ROOT))
        told, is_there = ask_until(folder, lambda _: False, **options)
        assert (told, is_there) == (verdict(SYMPTOM), True)
        assert len(observer.left) == 1
