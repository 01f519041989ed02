"""`distwatch attach` without a name: the one job of this host, or a choice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from distwatch.cli import attach
from distwatch.errors import NoSuchTarget
from distwatch.observer.targets import unwatched
from tests.cli.runs import distwatch
from tests.probes.others import other
from tests.support.terminals import in_terminal

WAIT = "import os; os.write(1, b'up\\n'); os.read(0, 1)"


def variables(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def test_several_jobs_are_a_choice_and_without_a_terminal_a_list(root: Path) -> None:
    with (
        other(WAIT, environ=variables(0, 1)) as one,
        other(WAIT, environ=variables(1, 1)) as two,
        other(WAIT, environ=variables(0, 2)) as alone,
    ):
        for process in (one, two, alone):
            assert process.line() == "up"
        done = distwatch("attach", "--once", root=root)
        assert done.returncode == 2
        assert f"2 ranks run without distwatch: `distwatch attach {one.pid}`" in done.stderr
        assert f"`distwatch attach {alone.pid}`" in done.stderr
        assert "world size 2; since " in done.stderr
        assert "0 of 2 main threads move" in done.stderr
        assert str(two.pid) not in done.stderr

        command = [sys.executable, "-m", "distwatch", "attach", "--dir", str(root)]
        code, said = in_terminal(command, until=b"which", then=end_of_input)
    assert code == 130
    assert f"`distwatch attach {alone.pid}`".encode() in said


def test_where_no_job_is_and_no_run_it_says_how_to_name_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwatched, "unwatched_jobs", lambda _: [])  # this machine may have others
    with pytest.raises(NoSuchTarget, match="may look at runs on this host") as raised:
        attach.choose(str(root))
    assert "`distwatch attach PID`" in raised.value.advice


def end_of_input(_pid: int, terminal: int) -> None:
    os.write(terminal, b"\x04")
