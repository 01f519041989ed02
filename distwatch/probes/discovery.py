"""Which processes of this node belong to a job, without any help from it."""

from __future__ import annotations

import os
from pathlib import Path

from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.redaction import redact_command
from distwatch.runfolder import parent_pid, start_ticks
from distwatch.state.events import ProcessSighted
from distwatch.state.frames import process_key
from distwatch.state.identity import Identity, identify

_LAUNCHER_PROGRAMS = ("torchrun", "accelerate", "deepspeed")
_LAUNCHER_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
)


def read_environ(pid: int) -> dict[str, str] | None:
    """The environment that a process began with; None where it is gone or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (item.decode("utf-8", "replace").partition("=") for item in raw.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


def read_command(pid: int) -> tuple[str, ...]:
    """Its command line, secrets redacted; empty where it is gone or a kernel thread."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return redact_command(
        part.decode("utf-8", "replace") for part in raw.rstrip(b"\0").split(b"\0")
    )


def sight(pid: int) -> ProcessSighted | None:
    """What a process is, from outside; None where it is gone or not ours to read."""
    environ, ticks = read_environ(pid), start_ticks(pid)
    if environ is None or not ticks:
        return None
    host, command, identity = os.uname().nodename, read_command(pid), identify(environ)
    return ProcessSighted(
        process=process_key(host, pid, ticks),
        host=host,
        pid=pid,
        start_ticks=ticks,
        ppid=parent_pid(pid),
        role=_role(pid, command, identity),
        identity=identity,
        command=command[:32],
    )


def ranks_of(identity: Identity) -> list[ProcessSighted]:
    """All ranks on this host whose launcher names the same endpoint."""
    if identity.endpoint is None:
        return []
    found = [sight(pid) for pid in _own_pids()]
    return [
        process
        for process in found
        if process is not None
        and process.role == "rank"
        and process.identity.endpoint == identity.endpoint
    ]


def job_of(pid: int) -> list[ProcessSighted]:
    """The run that a process belongs to: its launcher, all ranks, and their children.

    Raises:
        NoSuchTarget: there is no such process.
        AttachDenied: it is another user's.
    """
    start = sight(pid)
    if start is None:
        _refuse(pid)
    assert start is not None
    rank = _nearest_rank(start) or _rank_below(start)
    ranks = ranks_of(rank.identity) if rank is not None else [start]
    if rank is not None and all(one.pid != rank.pid for one in ranks):
        ranks.append(rank)
    launchers = {one.ppid for one in ranks}
    above = [found for ppid in launchers if (found := sight(ppid)) and found.role == "launcher"]
    children = [found for one in ranks for child in children_of(one.pid) if (found := sight(child))]
    return [*above, *ranks, *children]


def children_of(pid: int, *, main_thread_only: bool = False) -> list[int]:
    """The direct children of a process, of all its threads by default."""
    found: list[int] = []
    try:
        tasks = [str(pid)] if main_thread_only else os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for task in tasks:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (OSError, ValueError):
            continue
    return sorted(set(found))


def _refuse(pid: int) -> None:
    if not os.path.isdir(f"/proc/{pid}"):
        raise NoSuchTarget(f"there is no process {pid}", advice="See `distwatch ps` and `ps`.")
    raise AttachDenied(
        f"process {pid} belongs to another user",
        advice="Run distwatch as that user, or as root with CAP_SYS_PTRACE.",
    )


def _nearest_rank(process: ProcessSighted) -> ProcessSighted | None:
    current: ProcessSighted | None = process
    for _ in range(16):
        if current is None or current.role == "rank":
            return current
        current = sight(current.ppid) if current.ppid > 1 else None
    return None


def _rank_below(process: ProcessSighted) -> ProcessSighted | None:
    pending = children_of(process.pid)
    for _ in range(4096):
        if not pending:
            return None
        found = sight(pending[0])
        if found is not None and found.role == "rank":
            return found
        pending = pending[1:] + children_of(pending[0])
    return None


def _own_pids() -> list[int]:
    uid = os.getuid()
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if uid == 0 or os.stat(f"/proc/{name}").st_uid == uid:
                found.append(int(name))
        except OSError:
            continue
    return found


def _role(pid: int, command: tuple[str, ...], identity: Identity) -> str:
    if is_launcher(command):
        return "launcher"
    parent = parent_pid(pid)
    parent_command = read_command(parent)
    inherited = _is_python(parent_command) and not is_launcher(parent_command)
    if inherited and (environ := read_environ(parent)) is not None:
        above = identify(environ)
        same = above.global_rank is not None and above.global_rank == identity.global_rank
        if same and above.endpoint == identity.endpoint:
            forked = parent_command == command
            spawned = any("multiprocessing" in part for part in command)
            return "dataloader" if forked or spawned else "child"
    if identity.global_rank is None or not _is_python(command):
        return "other"
    return "rank"


def is_launcher(command: tuple[str, ...]) -> bool:
    """torchrun, accelerate launch, deepspeed, or python running one of their modules."""
    names = {os.path.basename(part) for part in command[:2]}
    if names & set(_LAUNCHER_PROGRAMS):
        return True
    return any(module in command[:5] for module in _LAUNCHER_MODULES)


def _is_python(command: tuple[str, ...]) -> bool:
    return bool(command) and (
        "python" in os.path.basename(command[0]) or command[0].startswith("ray::")
    )
