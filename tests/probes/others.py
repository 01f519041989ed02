"""Real processes to look at: each says when it is ready, and is ended with its `with` block."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping

import psutil

NOBODY = 65534

# A clone with CLONE_VFORK leaves its caller in D state until the child has ended: a blocked
# kernel, without a broken disk. The child waits on a pipe whose writer is its parent.
BLOCK_IN_KERNEL = """
import ctypes, os, platform, sys, threading
def block():
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    child = ctypes.CDLL(None).syscall(number, 0x4000 | 17, 0, 0, 0, 0)
    if child == 0:
        os.read(0, 1)
        os._exit(0)
"""


class Other:
    """A process that a test looks at."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def line(self) -> str:
        """Waits for the next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args!r} ended without a word"
        return line.decode().rstrip("\n")

    def number(self) -> int:
        return int(self.line())

    def say(self, text: str = "go") -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()


@contextlib.contextmanager
def other(
    code: str,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    uid: int | None = None,
    gid: int | None = None,
    command: list[str] | None = None,
) -> Iterator[Other]:
    """A Python process that runs `code`, or another command."""
    process = subprocess.Popen(
        [*(command or [sys.executable, "-c", textwrap.dedent(code)]), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=None if environ is None else {"PATH": os.environ["PATH"], **environ},
        user=uid,
        group=gid,
        extra_groups=None if gid is None else [],
        start_new_session=True,
    )
    try:
        yield Other(process)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started, whose sessions may be their own."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def stop(pid: int) -> None:
    """SIGSTOP to a child of ours, until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def as_nobody(function: Callable[[], str]) -> str:
    """What `function` returns in a process of another, unprivileged user."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The suite's own timer is a thread, of which the child needs nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, function().encode())
        except BaseException as error:
            os.write(writer, f"raised {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said
