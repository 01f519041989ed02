"""`distwatch import` on what people have after a hang: each case with its answer, and controls."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distwatch.cli.__main__ import cli
from tests.dumps.test_import import entry, nccl_dump, write

OWN = Path(__file__).parent / "data" / "logs"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "logs"
"""Lies beside a checkout where more cases are kept."""


def cases_of(folder: Path) -> list[Any]:
    listed = folder / "expect.json"
    if not listed.exists():
        return []
    cases = json.loads(listed.read_text())
    return [pytest.param(folder / name, case, id=name) for name, case in cases.items()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir(mode=0o700)
    return path


def imported(root: Path, *paths: str, given: str | None = None) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(
        cli,
        ["import", *paths, "-o", "json", "--dir", str(root)],
        standalone_mode=False,
        input=given,
    )
    assert result.exception is None, result.output
    return result.return_value, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize(("folder", "case"), cases_of(OWN) + cases_of(SHARED))
def test_each_case_has_its_answer_first(folder: Path, case: dict[str, Any], root: Path) -> None:
    status, report, said = imported(root, str(folder))
    findings = report["findings"]
    blocking = [f for f in findings if f["severity"] in ("hang", "crash")]
    if case["control"]:
        assert blocking == []
        assert status in (0, 6), said
        return
    assert findings[0]["code"] in case["codes"]
    if case["culprits"] != "any":
        assert findings[0]["culprit_ranks"] == case["culprits"]
    assert status == 3


def test_several_kinds_of_evidence_make_one_verdict(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "left"
    waiting = [entry(1), entry(2), entry(3, state="started", retired=False)]
    for rank in (0, 2):
        write(folder, f"nccl_trace_rank_{rank}", pickle.dumps(nccl_dump(waiting)))
    status, report, _ = imported(root, str(folder))
    assert report["findings"][0]["code"] == "collective.rank_missing"
    lines = [
        "Traceback (most recent call last):",
        '  File "/job/t.py", line 7, in f',
        "KeyError: 'x'",
    ]
    (folder / "train.log").write_text("".join(f"[rank1]: {line}\n" for line in lines))
    status, report, _ = imported(root, str(folder))
    first = report["findings"][0]
    assert (first["code"], first["culprit_ranks"]) == ("process.exited", [1])
    assert "t.py:7 in f" in first["summary"]
    assert status == 3


def test_files_and_standard_input_are_read_together(tmp_path: Path, root: Path) -> None:
    case = OWN / "oom_of_an_unknown_pid"
    log, kernel = (case / "t.log").read_text(), str(case / "dmesg.txt")
    _, report, _ = imported(root, kernel, "-", given=log)
    assert report["findings"][0]["code"] == "process.oom_killed"
    _, report, _ = imported(root, "-", given=log)
    assert report["findings"][0]["code"] == "process.exited"


def test_the_first_failure_is_the_last_one_in_torchruns_table(tmp_path: Path, root: Path) -> None:
    def block(number: int, rank: int, second: int, code: int) -> str:
        return (
            f"[{number}]:\n  time      : 2025-11-29_03:20:0{second}\n  host      : n1\n"
            f"  rank      : {rank} (local_rank: {rank})\n  exitcode  : {code} (pid: 77{rank})\n"
        )

    log = tmp_path / "out.log"
    log.write_text(
        f"train.py FAILED\nFailures:\n{block(1, 0, 3, 1)}Root Cause (first observed failure):\n"
        f"{block(0, 2, 1, -9)}"
    )
    _, report, _ = imported(root, str(log))
    first = report["findings"][0]
    assert (first["code"], first["culprit_ranks"]) == ("process.killed", [2])
