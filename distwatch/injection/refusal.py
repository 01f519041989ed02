"""Why the agent is not brought into a process: checked before anything in it is touched."""

from __future__ import annotations

import os
import platform
import time

from distwatch.errors import DistwatchError
from distwatch.probes.procfs import owner_of, stat_fields, state_of, status_of, tasks_of
from distwatch.probes.ptrace import explain_denial, user_name
from distwatch.state.events import ThreadStack

_LOOKS = 5
_LOOK_AGAIN_S = 0.05


class Refused(DistwatchError):
    """The agent was not brought in; the job runs on as before."""


class NoThreadWaits(Refused):
    """No thread of it is in a call from which one could be borrowed."""


def require_injectable(pid: int) -> None:
    """Raises Refused for a process that cannot or must not be borrowed for a moment."""
    if why := _why_not(pid):
        raise Refused(f"process {pid} {why}")


def _why_not(pid: int) -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"runs on {platform.system()} {platform.machine()}: Linux on x86-64 is needed"
    state, owner = state_of(pid), owner_of(pid)
    if not state or state in "ZX":
        return "has ended"
    if owner != os.geteuid():
        whose = "a user who is not known" if owner is None else user_name(owner)
        return (
            f"belongs to {whose}: run distwatch as that user, who also owns what the agent writes"
        )
    if (tracer := status_of(f"/proc/{pid}", "TracerPid")) and tracer[0] != "0":
        return f"is traced by process {tracer[0]} (a debugger or profiler): end that first"
    if _namespace_of(pid) != _namespace_of(os.getpid()):
        return "is in another pid namespace (a container): run distwatch in it"
    if state in "Tt":
        return "is stopped (SIGSTOP): no thread of it would run"
    if _is_stuck(pid):
        return "is blocked in the kernel (state D): a thread of it may hold its memory map"
    if not _may_attach(pid):
        return f"may not be traced: {explain_denial(pid)}"
    return ""


def _namespace_of(pid: int) -> str:
    """There the agent would call itself by another pid than the observer here does."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _is_stuck(pid: int) -> bool:
    """Whether a thread stays in state D: one that writes to a disk is there for moments only."""
    for _ in range(_LOOKS):
        if "D" not in [fields[0] for task in tasks_of(pid) if (fields := stat_fields(pid, task))]:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True


def _may_attach(pid: int) -> bool:
    """The kernel's check of the right to attach, which is the one for this file, too."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def require_free_gil(
    pid: int, before: tuple[ThreadStack, ...], after: tuple[ThreadStack, ...]
) -> None:
    """Raises Refused where a thread sleeps with the GIL: native code that does not let anyone else run.

    Args:
        before, after: all its threads, at two moments some tenths of a second apart.
    """
    held, holds = _owner(before), _owner(after)
    if held is None or holds is None or held.os_thread_id != holds.os_thread_id:
        return
    fields = stat_fields(pid, holds.os_thread_id)
    if held.frames == holds.frames and fields is not None and fields[0] in "SD":
        where = f" in {holds.frames[-1].function} ({holds.frames[-1].file}:{holds.frames[-1].line})"
        raise Refused(
            f"process {pid}: thread {holds.name or holds.os_thread_id} sleeps{where if holds.frames else ''} "
            "and holds the GIL in native code: no Python code would run"
        )


def _owner(threads: tuple[ThreadStack, ...]) -> ThreadStack | None:
    return next((thread for thread in threads if thread.owns_gil), None)
