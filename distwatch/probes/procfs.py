"""Reading /proc. Nothing here raises: a process may end at any moment, and then the result is empty."""

from __future__ import annotations

import os


def read_bytes(path: str) -> bytes:
    """A file's content; empty where it is gone or not readable."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall() or b""
    except OSError:
        return b""


def read_text(path: str) -> str:
    """The same as text; what is not UTF-8 is replaced, because the text will be encoded again."""
    return read_bytes(path).decode("utf-8", "replace")


def stat_fields(pid: int, task: int | None = None) -> list[str] | None:
    """The fields of `stat` from the state letter on (proc(5)'s number minus 3); None: gone."""
    path = f"/proc/{pid}/stat" if task is None else f"/proc/{pid}/task/{task}/stat"
    # The command name is in parentheses and may contain anything: count from the last one.
    fields = read_bytes(path).rpartition(b")")[2].decode("ascii", "replace").split()
    return fields if len(fields) >= 22 else None


def state_of(pid: int) -> str:
    """The kernel's task state of the main thread (R, S, D, T, Z); '' where the process is gone."""
    fields = stat_fields(pid)
    return fields[0] if fields else ""


def argv_of(pid: int) -> tuple[str, ...]:
    """Its command line; empty where it is gone or a kernel thread."""
    raw = read_text(f"/proc/{pid}/cmdline").rstrip("\0")
    return tuple(raw.split("\0")) if raw else ()


def name_of(pid: int) -> str:
    """The kernel's short name of a process or thread."""
    return read_text(f"/proc/{pid}/comm").rstrip("\n")


def tasks_of(pid: int) -> list[int]:
    """Its threads, the main thread first."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return []


def children_of(pid: int, tasks: list[int] | None = None) -> list[int]:
    """The direct children; default: of all its threads."""
    found: list[int] = []
    for task in tasks_of(pid) if tasks is None else tasks:
        found += map(int, read_bytes(f"/proc/{pid}/task/{task}/children").split())
    return sorted(found)


def all_pids() -> list[int]:
    """All processes of this pid namespace."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def owner_of(pid: int) -> int | None:
    """The effective uid of a process; None where it is gone."""
    uids = status_of(f"/proc/{pid}", "Uid")
    return int(uids[1]) if uids else None


def status_of(place: str, name: str) -> list[str]:
    """The values of one line of `status`, of a process or thread; empty where there are none."""
    for line in read_text(f"{place}/status").splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1:]
    return []


def may_trace(pid: int) -> bool:
    """Whether the kernel lets this process read that process's private files: the ptrace read check.

    Also True for a zombie, whose `cwd` is gone, but only for those who may look.
    """
    try:
        os.readlink(f"/proc/{pid}/cwd")
    except PermissionError:
        return False
    except OSError:
        return os.path.exists(f"/proc/{pid}/stat")
    return True
