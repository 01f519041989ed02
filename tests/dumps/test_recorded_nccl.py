"""Verdicts on dumps that the ranks of real NCCL jobs left: see data/README.md."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from distwatch.state.finding import Finding
from tests.dumps.test_import import run_import
from tests.support.imported import judge_folder

DATA = Path(__file__).parent / "data"
FAULTS = {
    "gpu_error_1st": ("collective.device_behind", (12, 14)),
    "lock_gil_1st": ("collective.rank_missing", (9, 14)),
}


def blamed(findings: list[Finding]) -> set[int]:
    return {rank for finding in findings for rank in finding.culprit_ranks}


def without(ranks: tuple[int, ...], name: str, to: Path) -> Path:
    gone = {f"_dump_{rank}" for rank in ranks}
    shutil.copytree(DATA / name, to, ignore=lambda _, names: gone & set(names))
    return to


@pytest.mark.parametrize("name", FAULTS)
def test_the_ranks_and_what_is_wrong_with_them_come_first(name: str) -> None:
    code, culprits = FAULTS[name]
    findings = judge_folder(DATA / name)
    assert (findings[0].code, findings[0].culprit_ranks) == (code, culprits)
    assert findings[0].confidence >= 0.9
    assert blamed(findings) == set(culprits)
    assert not any(finding.code.startswith("network.") for finding in findings)


@pytest.mark.parametrize("name", FAULTS)
def test_ranks_that_left_no_dump_are_found_by_elimination(name: str, tmp_path: Path) -> None:
    _, culprits = FAULTS[name]
    findings = judge_folder(without(culprits, name, tmp_path / name))
    assert (findings[0].code, findings[0].culprit_ranks) == ("collective.rank_missing", culprits)
    assert findings[0].confidence < 0.7
    assert blamed(findings) == set(culprits)
    assert "no record of the calls" in findings[0].summary


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("lost", range(16))
def test_one_lost_dump_makes_no_victim(name: str, lost: int, tmp_path: Path) -> None:
    code, culprits = FAULTS[name]
    findings = judge_folder(without((lost,), name, tmp_path / name))
    seen = tuple(rank for rank in culprits if rank != lost)
    assert (findings[0].code, findings[0].culprit_ranks) == (code, seen)
    assert blamed(findings) == set(seen)


def test_the_clock_is_in_the_entries_and_not_in_the_files(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir(mode=0o700)
    folder = without((), "lock_gil_1st", tmp_path / "copy")
    for path in folder.iterdir():
        os.utime(path, (4 * 10**9, 4 * 10**9))
    _, report, _ = run_import(folder, root)
    assert "have waited in it for 180 s" in report["findings"][0]["summary"], (
        "the timeout of those calls, after which torch writes a dump"
    )


def test_a_missing_file_is_said_and_no_advice_about_hosts_is_given(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir(mode=0o700)
    _, report, _ = run_import(without((9, 14), "lock_gil_1st", tmp_path / "copy"), root)
    assert report["coverage"]["unobserved"]["9"] == "no dump of this rank was found"
    assert "distwatch up" not in json.dumps(report)


def test_a_rank_without_entries_is_known_by_its_status() -> None:
    with (DATA / "lock_gil_1st" / "_dump_9").open("rb") as file:
        assert pickle.load(file)["entries"] == []
    findings = judge_folder(DATA / "lock_gil_1st")
    assert any(
        evidence.global_rank == 9 and "it has enqueued #45264" in evidence.text
        for evidence in findings[0].evidence
    )
