"""Talks to a keeper over a shell command: its task goes to its stdin, its answer comes from its stdout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shlex
import sys
import tempfile
from typing import IO

import msgspec

from distwatch.observer.cluster.parcel import LOADER, READY, pack
from distwatch.observer.cluster.tasks import HostJoined, Task
from distwatch.redaction import redact_text
from distwatch.visible_text import shorten

ANSWERS_WITHIN_S = 60.0
ENDS_WITHIN_S = 20.0
_KEEPER = (sys.executable, "-m", "distwatch.observer.cluster.host_keeper")
_ABSENT = ("No module named", "not found", "No such file", "can't open file")
_LINES = 200
"""A shell may greet before the keeper speaks."""


class Keeper:
    """A keeper on one host, or why there is none. `joined` is its answer."""

    def __init__(self, joined: HostJoined, process: asyncio.subprocess.Process | None = None):
        self.joined = joined
        self._process = process

    async def end(self) -> None:
        """Ends a keeper that stays as long as its shell: it stops its observer and removes what it brought."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), ENDS_WITHIN_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


async def start_keeper(host: str, shell: list[str], task: Task) -> Keeper:
    """Starts a keeper there; where distwatch is not installed, it is brought along.

    Args:
        shell: what runs a command there; empty on this host.
    """
    own = ["env", f"DISTWATCH_DIR={task.folders}"] if not shell else []
    keeper = await _converse(host, [*shell, *own, *_KEEPER], task)
    if shell and any(words in keeper.joined.failed for words in _ABSENT):
        keeper = await _converse(host, [*shell, "sh"], task, brings=True)
    return keeper


async def _converse(host: str, command: list[str], task: Task, *, brings: bool = False) -> Keeper:
    with tempfile.TemporaryFile() as errors:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=1 << 20,
            )
        except OSError as error:
            return Keeper(HostJoined(host=host, failed=f"{command[0]}: {error.strerror or error}"))
        try:
            joined = await asyncio.wait_for(_ask(process, task, brings), ANSWERS_WITHIN_S)
        except asyncio.TimeoutError:
            joined = HostJoined(failed=f"no answer within {ANSWERS_WITHIN_S:.0f} s")
        except OSError:
            joined = None  # it has ended already
        if joined is not None and not joined.failed and task.while_attached:
            joined.host = host
            return Keeper(joined, process)
        if joined is None or not joined.failed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), ENDS_WITHIN_S)
        if process.returncode is None:
            process.kill()
            await process.wait()
        joined = joined or HostJoined(
            failed=_last_words(errors) or f"ended with {process.returncode}"
        )
        joined.host = host
        return Keeper(joined)


async def _ask(process: asyncio.subprocess.Process, task: Task, brings: bool) -> HostJoined | None:
    """The keeper's answer; None where it ends without one."""
    writer, reader = process.stdin, process.stdout
    assert writer is not None
    assert reader is not None
    if brings:
        writer.write(_script().encode())
        # A shell may read ahead: nothing that is not for itself is sent before Python has begun.
        if not await _await_line(reader, READY):
            return None
        archive = await asyncio.to_thread(pack)
        writer.write(b"%d\n" % len(archive) + archive)
    writer.write(msgspec.json.encode(task) + b"\n")
    await writer.drain()
    if not task.while_attached:
        writer.close()
    for _ in range(_LINES):
        line = await reader.readline()
        if not line:
            return None
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(line, type=HostJoined)
    return None


async def _await_line(reader: asyncio.StreamReader, words: str) -> bool:
    for _ in range(_LINES):
        line = await reader.readline()
        if not line or line.strip() == words.encode():
            return bool(line)
    return False


def _script() -> str:
    """One line for `sh`: it becomes the first Python there that can load what is brought."""
    version = ".".join(map(str, sys.version_info[:2]))
    kind = (sys.version_info[:2], platform.machine())
    fits = f"import platform, sys; sys.exit((sys.version_info[:2], platform.machine()) != {kind})"
    pythons = " ".join(map(shlex.quote, (sys.executable, f"python{version}", "python3")))
    no = (
        f"distwatch is not installed, and to bring it along takes Python {version} on {platform.machine()} "
        "there: its compiled parts are for that"
    )
    return (
        f"for p in {pythons}; do if command -v $p >/dev/null 2>&1 && $p -c {shlex.quote(fits)} "
        f"</dev/null; then exec $p -c {shlex.quote(LOADER)}; fi; done; "
        f"echo {shlex.quote(no)} >&2; exit 1\n"
    )


def _last_words(errors: IO[bytes]) -> str:
    end = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, end - 4096))
    last = errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    return shorten(redact_text(last), 300)
