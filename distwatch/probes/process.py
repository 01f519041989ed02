"""What the kernel shows of a process: its state, its place in the kernel, and what its call is about."""

from __future__ import annotations

import os
import signal
import struct
import time
from typing import NamedTuple

import msgspec

from distwatch.probes.descriptors import describe_descriptor, socket_inode, watched_by_epoll
from distwatch.probes.procfs import children_of, name_of, read_text, stat_fields, tasks_of
from distwatch.probes.syscalls import ON_DESCRIPTOR, PATH_ARGUMENT, Call, call_of
from distwatch.state.events import ProcessSampled

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LONGEST_STRING = 1024
_POLLFD = struct.Struct("=ihh")
_PF_EXITING = 0x4
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)
_NAMED = 4
"""The most descriptors of one poll or epoll that are named."""
_KEPT = 4096
_POLLS = "pt_nccl"
"""torch's names of the threads that watch NCCL."""


class _Examined(NamedTuple):
    """What `examine` found; valid while the process neither leaves its call nor uses CPU."""

    call: Call
    ticks: int
    """CPU ticks; of the whole process where another thread than the main thread is stuck."""
    blocked_on: str
    stuck: str
    """A description of that thread; '' where there is none."""


_examined: dict[str, _Examined] = {}


def sample(key: str, pid: int) -> ProcessSampled | None:
    """The cheap look, six small reads, for each process each second. None where it is gone.

    It reads nothing that a stuck process could block. So `children` are the main thread's, and what
    needs the process's memory or the socket tables is included only once `examine` has found it.
    Fields that only the process's own user may read stay empty.
    """
    fields = _stat_unless_dying(pid)
    if fields is None:
        return None
    call = _call(pid, fields[0])
    if not call.name and fields[0] not in "RZX":
        fields = _stat_unless_dying(pid) or fields  # killed between the two looks?
    blocked_on = _subject(pid, call, thorough=False)
    known = _examined.get(key)
    if known and known.call == call and known.ticks == _ticks_of(pid, fields, bool(known.stuck)):
        return _sampled(key, pid, fields, call, known.blocked_on, known.stuck)
    return _sampled(key, pid, fields, call, blocked_on)


def examine(key: str, pid: int) -> ProcessSampled | None:
    """The thorough look: also socket endpoints, all children, and a thread stuck in D state.

    `state` is the main thread's; `wchan` names another thread that is in D state, and `blocked_on`
    is about that thread where the main thread's call is about nothing that has a name.
    It may read the process's memory, which can block while the process is stuck in the kernel:
    call it where blocking does no harm.
    """
    fields = _stat_unless_dying(pid)
    if fields is None:
        return None
    call = _call(pid, fields[0])
    blocked_on = _subject(pid, call, thorough=True)
    stuck = ""
    if fields[0] not in "DTtZX" and (found := _stuck_thread(pid)) is not None:
        task, stuck = found
        blocked_on = blocked_on or _subject(pid, call_of(pid, task, "D"), thorough=True)
    if len(_examined) >= _KEPT:
        _examined.clear()
    _examined[key] = _Examined(call, _ticks_of(pid, fields, bool(stuck)), blocked_on, stuck)
    sampled = _sampled(key, pid, fields, call, blocked_on, stuck)
    return msgspec.structs.replace(sampled, children=tuple(children_of(pid)))


def awaited_sockets(pid: int, *, thorough: bool) -> set[str]:
    """The inodes of the sockets that its main thread's system call is about.

    Args:
        thorough: also of a poll or select, whose list is in the process's memory: see `examine`.
    """
    fields = stat_fields(pid)
    if fields is None:
        return set()
    name, arguments = _call(pid, fields[0])
    if name in ON_DESCRIPTOR and arguments:
        descriptors = [_signed(arguments[0])]
    else:
        descriptors = _polled(pid, name, arguments)[:_NAMED] if thorough and arguments else []
    return {inode for one in descriptors if (inode := socket_inode(pid, one))}


def call_in_words(pid: int, task: int) -> str:
    """What one thread waits in: `poll on socket listening on …`; '' where it runs or cannot be read.

    It may read the process's memory: see `examine`.
    """
    fields = stat_fields(pid, task)
    if fields is None or fields[0] in "RZX":
        return ""
    call = call_of(pid, task, fields[0])
    subject = _subject(pid, call, thorough=True)
    return f"{call.name} on {subject}" if subject else call.name


def _stat_unless_dying(pid: int) -> list[str] | None:
    """The fields of its `stat`. One that has been killed counts as dead: its call has been interrupted already."""
    fields = stat_fields(pid)
    return ["Z", *fields[1:]] if fields is not None and is_dying(fields) else fields


def is_dying(fields: list[str]) -> bool:
    """Whether these fields of `stat` are of a process that is exiting, or is about to take a SIGKILL."""
    flags, pending = int(fields[6]), int(fields[28])
    return bool(flags & _PF_EXITING or pending & _SIGKILL_PENDING)


def began_s(pid: int) -> float | None:
    """When a process began, in seconds by the wall clock; None where it is gone."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot_s + int(fields[19]) / _TICKS


def main_thread_busy_s(pid: int) -> float | None:
    """Seconds that its main thread has run or waited for a core so far; None where it is gone.

    On a crowded machine a loop gets little CPU, and is as busy as on an idle one. Where the kernel keeps
    no such account (CONFIG_SCHED_INFO), it is the CPU time alone, in ticks of 10 ms.
    """
    account = _schedule_of(pid)
    if account is not None:
        return sum(account) / 1e9
    fields = stat_fields(pid, pid)
    return None if fields is None else _cpu_ticks(fields) / _TICKS


def main_thread_run_ns(pid: int) -> int | None:
    """Nanoseconds that its main thread has run so far: equal in two looks, it has slept in between.

    None where that says nothing: the kernel keeps no account, or the process is one of those whose waits
    poll or spin, as NCCL's do.
    """
    if any(name_of(task).startswith(_POLLS) for task in tasks_of(pid)):
        return None
    account = _schedule_of(pid)
    return account[0] if account is not None else None


def _schedule_of(pid: int) -> tuple[int, int] | None:
    """Nanoseconds on a core, and in wait for one, of the main thread."""
    words = read_text(f"/proc/{pid}/task/{pid}/schedstat").split()
    return (int(words[0]), int(words[1])) if len(words) >= 2 else None


def _sampled(
    key: str, pid: int, fields: list[str], call: Call, blocked_on: str, stuck: str = ""
) -> ProcessSampled:
    wchan = "" if fields[0] in "RZX" else _wchan(pid, pid)
    return ProcessSampled(
        process=key,
        state=fields[0],
        wchan="; ".join(filter(None, (wchan, stuck))),
        syscall=call.name,
        cpu_s=_cpu_ticks(fields) / _TICKS,
        rss_bytes=int(fields[21]) * _PAGE,
        threads=int(fields[17]),
        blocked_on=blocked_on,
        children=tuple(children_of(pid, [pid])),
    )


def _call(pid: int, state: str) -> Call:
    return Call("") if state in "RZX" else call_of(pid, pid, state)


def _ticks_of(pid: int, fields: list[str], whole: bool) -> int:
    """CPU ticks of the main thread; of the whole process where the sample is about another thread."""
    own = fields if whole else stat_fields(pid, pid)
    return _cpu_ticks(own) if own is not None else -1


def _cpu_ticks(fields: list[str]) -> int:
    return int(fields[11]) + int(fields[12])


def _wchan(pid: int, task: int) -> str:
    text = read_text(f"/proc/{pid}/task/{task}/wchan")
    return "" if text == "0" else text


def _stuck_thread(pid: int) -> tuple[int, str] | None:
    """A thread in D state other than the main thread, and a description."""
    for task in tasks_of(pid):
        fields = stat_fields(pid, task) if task != pid else None
        if fields is not None and fields[0] == "D":
            place = _wchan(pid, task) or "unknown"
            return task, f"thread {task} ({name_of(task)}) in D: {place}"
    return None


def _subject(pid: int, call: Call, thorough: bool) -> str:
    """What a system call is about, in words; '' where that has no name."""
    name, arguments = call
    if not arguments:
        return ""
    if name in ON_DESCRIPTOR:
        return describe_descriptor(pid, _signed(arguments[0]), look_up=thorough)
    if name in ("wait4", "waitid", "vfork", "clone", "clone3"):
        return _awaited_child(pid, name, arguments)
    if not thorough:
        return ""
    if (place := PATH_ARGUMENT.get(name)) is not None:
        return _string_at(pid, arguments[place])
    descriptors = _polled(pid, name, arguments)
    named = [describe_descriptor(pid, one) for one in descriptors[:_NAMED]]
    more = f" and {len(descriptors) - _NAMED} more" if len(descriptors) > _NAMED else ""
    return ", ".join(filter(None, named)) + more


def _polled(pid: int, name: str, arguments: tuple[int, ...]) -> list[int]:
    """The descriptors of a poll, select or epoll call."""
    if name in ("poll", "ppoll"):
        size = _POLLFD.size * min(arguments[1], 256)
        memory = _memory_at(pid, arguments[0], size)
        whole = memory[: len(memory) // _POLLFD.size * _POLLFD.size]
        return [one for one, _, _ in _POLLFD.iter_unpack(whole) if one >= 0]
    if name in ("select", "pselect6"):
        count = min(arguments[0], 1024)
        sets = [_memory_at(pid, at, (count + 7) // 8) for at in arguments[1:3] if at]
        bits = [int.from_bytes(one, "little") for one in sets]
        return [one for one in range(count) if any(word >> one & 1 for word in bits)]
    if name.startswith("epoll_"):
        return watched_by_epoll(pid, _signed(arguments[0]))
    return []


def _awaited_child(pid: int, name: str, arguments: tuple[int, ...]) -> str:
    children = children_of(pid)
    if name == "wait4" and _signed(arguments[0]) > 0:
        child = _signed(arguments[0])
    elif name == "waitid" and arguments[0] == os.P_PID:
        child = arguments[1]
    elif name in ("wait4", "waitid") and len(children) > 1:
        return f"any of {len(children)} child processes"
    elif children:
        child = children[-1]
    else:
        return ""
    return f"child process {child} ({name_of(child)})" if child in children else ""


def _string_at(pid: int, address: int) -> str:
    in_page = min(_LONGEST_STRING, _PAGE - address % _PAGE)
    memory = _memory_at(pid, address, in_page)
    if b"\0" not in memory and len(memory) == in_page < _LONGEST_STRING:
        # By itself: the next page need not be mapped.
        memory += _memory_at(pid, address + in_page, _LONGEST_STRING - in_page)
    return memory.partition(b"\0")[0].decode("utf-8", "replace")


def _memory_at(pid: int, address: int, size: int) -> bytes:
    """Reads the process's memory; this neither stops nor changes the process."""
    try:
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(descriptor)


def _signed(argument: int) -> int:
    """A C int in the format of /proc."""
    value = argument & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
