"""`attach --slurm` where there is no Slurm, or nothing to ask it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.errors import DistwatchError
from tests.cli.runs import call


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--slurm", "train"), 2, "'train' is no number of a job"),
        (("--slurm", "7;rm -rf"), 2, "is no number of a job"),
        (("--slurm", "7", "1234"), 2, "finds the process and the hosts by itself"),
        (("--slurm", "7", "--hosts", "n1"), 2, "finds the process and the hosts by itself"),
        (("--slurm", "7_1.0"), 1, "squeue cannot be asked"),
    ],
)
def test_it_says_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("attach", "--once", *arguments, root=tmp_path / "runs")
    assert isinstance(done.exception, DistwatchError)
    assert (done.exception.exit_code, words in str(done.exception)) == (code, True)
