"""The processes of this node that belong to a job, found without any help from the job."""

from __future__ import annotations

import os

from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.probes.procfs import argv_of, owner_of
from distwatch.probes.ptrace import explain_denial
from distwatch.probes.raylets import raylet_at
from distwatch.probes.table import ProcessTable, Seen
from distwatch.redaction import redact_command
from distwatch.runfolder import host_name
from distwatch.state.addresses import is_loopback
from distwatch.state.bounds import whole_number
from distwatch.state.events import ProcessSighted
from distwatch.state.frames import process_key
from distwatch.state.identity import Identity

_ARGUMENTS = 32
_LENGTH = 400
_ORDER = {"launcher": 0, "rank": 1}


def read_command(pid: int) -> tuple[str, ...]:
    """Its command line, secrets redacted; empty where it is gone or a kernel thread."""
    return _shown(argv_of(pid))


def sight(pid: int) -> ProcessSighted | None:
    """A process as seen from outside; None where it is gone or not readable."""
    table = ProcessTable()
    seen = table.get(pid) if pid > 0 else None
    return _sighted(table, seen) if seen is not None and seen.environ is not None else None


def ranks_of(identity: Identity) -> list[ProcessSighted]:
    """All ranks on this host whose launcher variables name the same endpoint (or job)."""
    table = ProcessTable()
    return [_sighted(table, rank) for rank in _ranks(table, identity)]


def ranks_here() -> list[tuple[ProcessSighted, dict[str, str]]]:
    """All ranks of this user on this host, with the environments that they started with."""
    table = ProcessTable()
    return [
        (_sighted(table, one), one.environ)
        for one in table.all()
        if one.identity.global_rank is not None
        and one.environ is not None
        and (rank := table.rank_of(one)) is not None
        and rank.pid == one.pid
        and owner_of(one.pid) == os.getuid()
    ]


def job_of(pid: int) -> list[ProcessSighted]:
    """The part of a run on this node: launchers first, then ranks, then their children.

    Args:
        pid: any process of it: a rank, its launcher or the shell above that, a dataloader worker,
            another subprocess of a rank, a Ray worker.

    Raises:
        NoSuchTarget: there is no such process.
        AttachDenied: it is not readable.
    """
    table = ProcessTable()
    start = _readable(table, pid)
    rank = table.rank_of(start) or _rank_below(table, start)
    alone = None
    if rank is not None:
        members = _around_ranks(table, rank)
    else:
        members = _ray_workers(table, start)
        if not members:
            members = [start, *table.below(start)]
            alone = _alone(table, members)
        members += [one for one in table.above(start) if one.is_launcher]
    found = {one.pid: one for one in [start, *members] if one.environ is not None}
    sighted = [
        _sighted(table, one, "rank" if one is alone else "")
        for one in found.values()
        if not one.is_distwatch
    ]
    return sorted(sighted, key=_place)


def _around_ranks(table: ProcessTable, rank: Seen) -> list[Seen]:
    ranks = [
        one
        for one in _ranks(table, rank.identity)
        if _same_network(one, rank) and _same_cluster(one, rank)
    ]
    if all(one.pid != rank.pid for one in ranks):
        ranks.append(rank)
    members = list(ranks)
    for one in ranks:
        members += [above for above in table.above(one) if table.role_of(above) == "launcher"]
        members += table.below(one)
    return members


def _ranks(table: ProcessTable, identity: Identity) -> list[Seen]:
    return [
        one
        for one in table.all()
        if _same_run(one.identity, identity)
        and (rank := table.rank_of(one)) is not None
        and rank.pid == one.pid
    ]


def _rank_below(table: ProcessTable, start: Seen) -> Seen | None:
    """A rank below a process, else one below the launcher above the process."""
    tops = [start, *(one for one in table.above(start) if table.role_of(one) == "launcher")]
    for top in tops:
        for one in table.below(top):
            if (rank := table.rank_of(one)) is not None:
                return rank
    return None


def _ray_workers(table: ProcessTable, start: Seen) -> list[Seen]:
    """Ray workers whose ranks were set at run time, so no environment shows them."""

    def place(one: Seen) -> tuple[str, str] | None:
        environ = one.environ or {}
        busy = bool(one.argv) and one.argv[0].startswith("ray::") and "IDLE" not in one.argv[0]
        raylet = environ.get("RAY_RAYLET_PID", "")
        return (raylet, environ.get("RAY_JOB_ID", "")) if raylet and busy else None

    mine = place(start)
    return [one for one in table.all() if place(one) == mine] if mine is not None else []


def _alone(table: ProcessTable, members: list[Seen]) -> Seen | None:
    """The one rank of a job whose launcher sets no variables: its topmost interpreter."""
    return next((one for one in members if one.is_python and table.role_of(one) == "other"), None)


def _same_run(one: Identity, other: Identity) -> bool:
    if one.endpoint is not None and other.endpoint is not None:
        return one.endpoint == other.endpoint
    if "ray" in (one.launcher, other.launcher) and one.endpoint != other.endpoint:
        return False  # every cluster has a job 01000000
    return one.launch_id is not None and one.launch_id == other.launch_id


def _same_network(one: Seen, other: Seen) -> bool:
    """127.0.0.1 of one container is another address than that of a second container."""
    if not is_loopback(other.identity.master_addr or ""):
        return True
    try:
        spaces = {os.readlink(f"/proc/{seen.pid}/ns/net") for seen in (one, other)}
    except OSError:
        return True
    return len(spaces) == 1


def _same_cluster(one: Seen, other: Seen) -> bool:
    """Every Ray cluster numbers its jobs from the beginning."""
    said = [(seen.environ or {}).get("RAY_RAYLET_PID") for seen in (one, other)]
    raylets = [raylet for raylet in map(whole_number, said) if raylet is not None]
    if len(set(raylets)) < 2:
        return True
    found = [raylet_at(raylet) for raylet in raylets]
    return all(found) and len({raylet.address for raylet in found if raylet}) == 1


def _sighted(table: ProcessTable, seen: Seen, role: str = "") -> ProcessSighted:
    host = host_name()
    return ProcessSighted(
        process=process_key(host, seen.pid, seen.start_ticks),
        host=host,
        pid=seen.pid,
        start_ticks=seen.start_ticks,
        ppid=seen.ppid,
        role=role or table.role_of(seen),
        identity=seen.identity,
        command=_shown(seen.argv),
        instrumented=False,
    )


def _shown(argv: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(argument[:_LENGTH] for argument in redact_command(argv))[:_ARGUMENTS]


def _place(process: ProcessSighted) -> tuple[int, int, int]:
    rank = process.identity.global_rank if process.role == "rank" else None
    return _ORDER.get(process.role, 2), -1 if rank is None else rank, process.pid


def require_readable(pid: int) -> None:
    """Raises NoSuchTarget where there is no such process, AttachDenied where it cannot be read."""
    _readable(ProcessTable(), pid)


def _readable(table: ProcessTable, pid: int) -> Seen:
    seen = table.get(pid) if pid > 0 else None
    if seen is None:
        if pid > 0 and _exists(pid):  # /proc is mounted with hidepid
            raise AttachDenied(
                f"process {pid} is hidden from this user",
                advice="Run distwatch as the user of the job, or as root",
            )
        raise NoSuchTarget(
            f"there is no process {pid} on {host_name()}",
            advice="`distwatch ps` lists the runs of this node",
        )
    if seen.environ is None:
        raise AttachDenied(f"process {pid} cannot be read: {explain_denial(pid)}")
    return seen


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
