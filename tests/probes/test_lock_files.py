"""Who holds a lock file, by the kernel and by the file's own words."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.probes.lock_files import look_at_lock

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
(fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_the_kernel_names_who_holds_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.lock"
    command = [sys.executable, "-c", HOLD, str(path), kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        looked = look_at_lock("here", str(path))
        (one,) = looked.holders
        assert (one.pid, one.alive) == (holder.pid, True)
        assert one.command[0] == sys.executable
        holder.kill()
        holder.wait(60)
    assert look_at_lock("here", str(path)).holders == (), "the kernel's lock ends with its process"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert look_at_lock("here", str(tmp_path / "no.lock")).exists is False


def test_a_soft_lock_says_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text(f"{os.getpid()}\nhere\n")
    (alive,) = look_at_lock("here", str(path)).holders
    assert (alive.pid, alive.alive) == (os.getpid(), True)
    path.write_text("999999999\nhere\n")
    (gone,) = look_at_lock("here", str(path)).holders
    assert (gone.pid, gone.alive) == (999999999, False)
    path.write_text("1\nelsewhere\n")
    looked = look_at_lock("here", str(path))
    assert (looked.holders, looked.says_host) == ((), "elsewhere")
    path.write_bytes(b"\xff\x00 no words")
    looked = look_at_lock("here", str(path))
    assert (looked.exists, looked.holders, looked.says_host) == (True, (), "")


def test_a_lock_of_this_process_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [holder.pid for holder in look_at_lock("here", str(path)).holders] == [os.getpid()]


def test_a_file_without_words_is_held_by_whoever_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "baton"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL)
    assert [one.pid for one in look_at_lock("here", str(path)).holders] == [os.getpid()]
    os.close(descriptor)
    looked = look_at_lock("here", str(path))
    assert (looked.exists, looked.holders) == (True, ())
