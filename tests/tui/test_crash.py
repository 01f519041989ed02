"""What ends the viewer ends the command: with code 1 and one line, after the screen is given back."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.runs import save
from tests.diagnosis.recorded import hung_job
from tests.support.terminals import in_terminal

SCREEN_TAKEN = b"\x1b[?1049h"
SCREEN_BACK = b"\x1b[?1049l"
CRASHING = """
import distwatch.tui.app as app
import distwatch.tui.workspace as workspace
from distwatch.cli.__main__ import main

def fail(*_):
    raise KeyError("no [/such] thing")

{where} = fail
main(["replay", "hung", "--dir", {root!r}])
"""


@pytest.mark.parametrize(
    ("where", "until"),
    # A key that is pressed before the keys are listed may come too early.
    [("app.TopBar.show", SCREEN_TAKEN), ("workspace.detail", b"Quit")],
    ids=["while it follows", "at a key"],
)
def test_a_crash_is_code_1_and_one_line(where: str, until: bytes, tmp_path: Path) -> None:
    save(hung_job(), tmp_path, "hung")
    script = CRASHING.format(where=where, root=str(tmp_path))
    code, said = in_terminal(
        [sys.executable, "-c", script],
        until=until,
        then=press_enter,
    )
    assert code == 1
    last = [line for line in said.rpartition(SCREEN_BACK)[2].decode().splitlines() if "w" in line]
    assert len(last) == 1, said
    assert "distwatch: unexpected KeyError: 'no [/such] thing'. DISTWATCH_DEBUG=1" in last[0]


@pytest.mark.parametrize("before", [b"", b"/", b"?"], ids=["a view", "the prompt", "the help"])
def test_ctrl_c_ends_it_with_130_and_gives_the_screen_back(before: bytes, tmp_path: Path) -> None:
    save(hung_job(), tmp_path, "hung")
    code, said = in_terminal(
        [sys.executable, "-m", "distwatch.cli", "replay", "hung", "--dir", str(tmp_path)],
        until=b"Quit",
        then=lambda _, terminal: os.write(terminal, before + b"\x03"),
    )
    assert code == 130
    after = said.rpartition(SCREEN_BACK)[2]
    assert b"distwatch" not in after, said
    assert b"Traceback" not in after


def press_enter(_pid: int, terminal: int) -> None:
    os.write(terminal, b"\r")


@pytest.mark.parametrize("controls", [True, False], ids=["nohup", "a session of its own"])
def test_without_its_terminal_it_ends(controls: bool, tmp_path: Path) -> None:
    save(hung_job(), tmp_path, "hung")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))

    def begin() -> None:
        os.setsid()
        if controls:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, "-m", "distwatch", "replay", "hung", "--dir", str(tmp_path)]
    viewer = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=begin)
    os.close(theirs)
    try:
        said = b""
        while SCREEN_TAKEN not in said:
            said += os.read(ours, 1 << 16)
        os.close(ours)
        assert viewer.wait(60) == 0
    finally:
        viewer.kill()
        viewer.wait()
