"""What ends the viewer ends the command: with code 1 and one line, after the screen is given back."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runs import save
from tests.diagnosis.recorded import hung_job

SCREEN_BACK = b"\x1b[?1049l"
CRASHING = """
import distwatch.tui.app as app
from distwatch.cli.__main__ import main

def fail(*_):
    raise KeyError("no [/such] thing")

{where} = fail
main(["replay", "hung", "--dir", {root!r}])
"""


@pytest.mark.parametrize(
    "where", ["app.TopBar.show", "app.detail"], ids=["while it follows", "at a key"]
)
def test_a_crash_is_code_1_and_one_line(where: str, tmp_path: Path) -> None:
    save(hung_job(), tmp_path, "hung")
    code, said = in_terminal(CRASHING.format(where=where, root=str(tmp_path)), b"\r")
    assert code == 1
    assert said.partition(SCREEN_BACK)[0], "the screen was taken"
    last = [line for line in said.rpartition(SCREEN_BACK)[2].decode().splitlines() if "w" in line]
    assert len(last) == 1, said
    assert "distwatch: unexpected KeyError: 'no [/such] thing'. DISTWATCH_DEBUG=1" in last[0]


def in_terminal(code: str, keys: bytes) -> tuple[int, bytes]:
    """Runs Python at a terminal of its own and types once it draws: its exit code, all it wrote."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while b"\x1b[?1049h" not in said:
                said += os.read(ours, 65536)
            os.write(ours, keys)
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:
            pass  # EIO: the other end is closed
        finally:
            os.close(ours)
    return process.returncode, said
