"""Python stacks from outside, by py-spy without pausing: works on frozen and stopped ranks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import sysconfig

import msgspec

from distwatch.errors import DistwatchError
from distwatch.probes.procfs import stat_fields, state_of, status_of, tasks_of
from distwatch.probes.ptrace import explain_denial
from distwatch.state.events import Frame, StackTaken, ThreadStack
from distwatch.state.observer_events import MAIN_THREAD
from distwatch.visible_text import shorten

_ATTEMPTS = 3
_PATIENCE_S = 1.0
_PERMANENT = (
    ("permission denied", "denied"),
    ("operation not permitted", "denied"),
    ("no such process", "gone"),
    ("failed to get process executable name", "gone"),
    ("failed to find python version", "foreign"),
    ("failed to find a python interpreter", "foreign"),
)


class StackUnreadable(DistwatchError):
    """A text that should be py-spy's JSON and is not."""


class _PySpyFrame(msgspec.Struct):
    name: str
    filename: str | None = None
    module: str | None = None
    line: int | None = None


class _PySpyThread(msgspec.Struct):
    frames: tuple[_PySpyFrame, ...]
    pid: int | None = None
    thread_name: str | None = None
    os_thread_id: int | None = None
    active: bool = False
    owns_gil: bool = False


_decoder = msgspec.json.Decoder(tuple[_PySpyThread, ...])


def find_py_spy() -> str | None:
    """The path of py-spy: beside this interpreter, else on PATH."""
    places = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))
    for place in places:
        if place and os.access(path := os.path.join(place, "py-spy"), os.X_OK):
            return path
    return shutil.which("py-spy")


_STANDBY = "distwatch/agent/standby.py"


async def take_stack(
    key: str, pid: int, *, native: bool = False, timeout_s: float = 5.0
) -> StackTaken:
    """One look at all threads; on failure `error` says why and what to do. Never raises.

    Without `native` the process is not paused, so a frozen process answers, too.

    Args:
        native: C frames, too. py-spy pauses the process for that (0.2 to 0.8 s), so it is refused for
            a process that is stopped or has a thread in D state.
        timeout_s: py-spy is killed after this time; the process continues.
    """
    if (why_not := _refusal(pid, native)) is not None:
        return StackTaken(process=key, error=why_not)
    attempts = 1 if native else _ATTEMPTS
    try:
        dump = dump_text(pid, "--native" if native else "--nonblocking", attempts=attempts)
        threads = parse_py_spy(await asyncio.wait_for(dump, timeout_s))
    except asyncio.TimeoutError:
        error = f"py-spy did not answer within {timeout_s:g} s and was killed"
        return StackTaken(process=key, error=error + (_undo_stop(pid) if native else ""))
    except (StackUnreadable, OSError) as unreadable:
        return StackTaken(process=key, error=str(unreadable))
    threads = tuple(thread for thread in threads if not _is_standby(thread))
    if not threads:
        return StackTaken(
            process=key, error="py-spy saw no Python thread: the process is just starting or ending"
        )
    return StackTaken(process=key, threads=threads)


def _is_standby(thread: ThreadStack) -> bool:
    """Whether it is distwatch's own in a process without an agent, which has no name."""
    return bool(thread.frames) and thread.frames[0].file.endswith(_STANDBY)


def parse_py_spy(text: str) -> tuple[ThreadStack, ...]:
    """The output of `py-spy dump --json` as stacks, outermost frame first.

    Raises:
        StackUnreadable: the text is something else.
    """
    try:
        threads = _decoder.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise StackUnreadable(
            f"not the output of `py-spy dump --json`: {error}",
            advice="Record it again with `py-spy dump --json --nonblocking --pid PID > FILE`",
        ) from None
    return tuple(
        ThreadStack(
            name=thread.thread_name or _unnamed(thread),
            os_thread_id=thread.os_thread_id,
            active=thread.active,
            owns_gil=thread.owns_gil,
            frames=tuple(_frame(frame) for frame in reversed(thread.frames)),
        )
        for thread in threads
    )


def _unnamed(thread: _PySpyThread) -> str:
    # py-spy reads thread names from the threading module, which a small program may not have imported.
    main = thread.pid is not None and thread.pid == thread.os_thread_id
    return MAIN_THREAD if main else ""


def _frame(frame: _PySpyFrame) -> Frame:
    # py-spy sets a module, the shared object, only for native frames.
    return Frame(
        function=frame.name,
        file=frame.filename or frame.module or "",
        line=frame.line or 0,
        native=frame.module is not None,
    )


def _refusal(pid: int, native: bool) -> str | None:
    state = state_of(pid)
    if not state:
        return f"process {pid} is gone"
    if state in "ZX":
        return f"process {pid} has ended and waits for its parent: it no longer has a stack"
    if not native:
        return None
    if state in "Tt":
        return "native frames of a stopped process cannot be read; take its Python frames"
    states = [fields[0] for task in tasks_of(pid) if (fields := stat_fields(pid, task))]
    if "D" in states:
        return (
            "a thread is blocked in the kernel (state D), which would block the reader of native "
            "frames, too; take its Python frames"
        )
    return None


async def dump_text(pid: int, *options: str, attempts: int = 1) -> str:
    """What `py-spy dump --json` prints; it is run until it can read the process, which keeps moving meanwhile.

    Raises:
        StackUnreadable: it could not, with the reason; or there is no py-spy.
    """
    program = find_py_spy()
    if program is None:
        raise StackUnreadable(
            "py-spy is neither beside this Python nor on PATH: pip install py-spy"
        )
    while True:
        attempts -= 1
        code, out, err = await _run([program, "dump", "--json", *options, "--pid", str(pid)])
        if code == 0:
            return out.decode("utf-8", "replace")
        message = err.decode("utf-8", "replace")
        lasting = _lasting_reason(message, pid)
        if lasting or attempts <= 0:
            raise StackUnreadable(lasting or _passing_reason(message))


async def _run(command: list[str]) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # A py-spy that waits for the memory map of a stuck process cannot even be killed.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        raise
    return process.returncode or 0, out, err


def _lasting_reason(message: str, pid: int) -> str:
    """Why another try would not help, in a sentence; '' where it might."""
    kind = next((kind for phrase, kind in _PERMANENT if phrase in message.lower()), "")
    if kind == "gone" or (kind and not state_of(pid)):
        return f"process {pid} is gone"
    if kind == "foreign":
        return f"process {pid} is not a Python process that py-spy knows"
    if kind == "denied":
        return f"not permitted to read process {pid}: {explain_denial(pid)}"
    return ""


def _passing_reason(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    words = lines[0].removeprefix("Error: ") if lines else "it ended without a message"
    return f"py-spy could not read the process while it moved ({shorten(words, 200)}): try again"


def _undo_stop(pid: int) -> str:
    """A killed py-spy can leave the stop signal of its attach behind: resumes the process."""
    masks = [
        mask for task in tasks_of(pid) for mask in status_of(f"/proc/{pid}/task/{task}", "SigPnd")
    ]
    pending = any(int(mask, 16) >> (signal.SIGSTOP - 1) & 1 for mask in masks)
    if not pending and state_of(pid) != "T":
        return ""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGCONT)
    return "; distwatch resumed the process with SIGCONT"
