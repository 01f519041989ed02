"""How a process ends into which the agent was brought: as it would have without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.injection.request import bring_in
from distwatch.probes.syscalls import call_of
from distwatch.runfolder import RunFolder
from tests.probes.others import end
from tests.support.waiting import wait_until

PROGRAM = """
import atexit, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs behind
atexit.register(print, "an exit handler")
if "handles" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("up", flush=True)
said = sys.stdin.readline().strip()
if said == "fail":
    raise ValueError("the loss is not finite")
if said == "leave":
    os._exit(7)
if said == "thread":
    threading.Thread(target=lambda: (threading.main_thread().join(), print("a last thread"))).start()
print("over")
"""
Ending = tuple[int, bytes, bytes]


def ended(how: str, arguments: tuple[str, ...], bring: Callable[[int], None]) -> Ending:
    """The exit code and all output of the program; `how`: what it is told, or the signal that it gets."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("DISTWATCH")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**variables, "RANK": "0", "WORLD_SIZE": "1", "DISTWATCH": "0"}, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        wait_until(lambda: call_of(process.pid, process.pid, "S").name == "read")
        bring(process.pid)
        if how in signal.Signals.__members__:
            process.send_signal(signal.Signals[how])
            process.wait(60)  # before its stdin ends: that would wake it, too
            said = b""
        else:
            said = f"{how}\n".encode()
        out, err = process.communicate(said, timeout=60)
        return process.returncode, out, err
    finally:
        end(process)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("how", "arguments", "code"),
    [
        ("go", (), 0),
        ("thread", (), 0),
        ("fail", (), 1),
        ("leave", (), 7),
        ("SIGTERM", (), -signal.SIGTERM),
        ("SIGTERM", ("handles",), 1),
        ("SIGINT", (), -signal.SIGINT),
        ("SIGKILL", (), -signal.SIGKILL),
    ],
)
def test_it_ends_as_without(
    how: str, arguments: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    folder = RunFolder(str(tmp_path / "root" / "attached"))
    folder.create()
    brought: list[int] = []

    def bring(pid: int) -> None:
        bring_in(pid, folder, "rank", for_good=True)
        brought.append(pid)

    bare = ended(how, arguments, lambda _: None)
    assert bare[0] == code, bare
    assert ended(how, arguments, bring) == bare
    assert brought
