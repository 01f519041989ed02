"""A short form of each trial of `make soak`, in a process of its own: it forks, and sets an alarm."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("trial", "count"),
    [("kills", 12), ("fuzz", 20_000), ("sockets", 1200), ("life", 7), ("injections", 6)],
)
def test_nothing_is_lost_and_nobody_is_shut_out(trial: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.soak.{trial}", "--count", str(count)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(count) in done.stdout
