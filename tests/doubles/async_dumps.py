"""What torch's flight recorder of each rank of an `AsyncJob` would have written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.doubles.async_job import AsyncJob
from tests.doubles.async_programs import Call

BEGAN_NS = 1_758_000_000_000_000_000
CALL_NS = 250_000


@dataclass(frozen=True)
class Recording:
    """How a job is recorded."""

    ring: int = 2000
    only_open: bool = False
    """Only entries that have not retired, as torch's watchdog may be told to write them."""
    timing: bool = False
    """Whether `started` is recorded (TORCH_NCCL_ENABLE_TIMING)."""
    keeps_p2p_open: bool = False
    """Whether sends and recvs stay `scheduled` when they are done, as batched ones do (pytorch#137969)."""
    lists_members: bool = True
    lost: frozenset[int] = frozenset()
    """Ranks whose dumps are missing."""
    gaps: bool = False
    """Whether other backends of the process have taken numbers of groups, too."""

    def number(self, place: int) -> int:
        """The recorder's number of a rank's group, by the order of its groups."""
        return 2 * place + 1 if self.gaps else place


def dumps_of(job: AsyncJob, how: Recording) -> dict[int, dict[str, Any]]:
    """By rank, its dump."""
    gone = how.lost | ({job.fault.rank} if job.fault.kind == "dead" else set())
    return {rank: _dump(job, rank, how) for rank in job.ranks if rank not in gone}


def _dump(job: AsyncJob, rank: int, how: Recording) -> dict[str, Any]:
    groups = job.programs.groups_of(rank)
    numbers = {name: str(place) for place, name in enumerate(job.programs.groups) if name in groups}
    done = job.recorded_done(rank)
    calls = list(enumerate(job.ranks[rank].enqueued))[-how.ring :]
    if how.only_open:
        stale = {id(call) for _, call in calls if how.keeps_p2p_open and call.is_p2p}
        calls = [(n, call) for n, call in calls if id(call) not in done or id(call) in stale]
    used = {call.group for call in job.ranks[rank].enqueued}
    return {
        "version": "2.9",
        "pg_config": {
            numbers[name]: {
                "name": numbers[name],
                "desc": role_of(name),
                "ranks": str(list(members)) if how.lists_members else "",
            }
            for name, members in groups.items()
            if name in used
        },
        "nccl_version": "2.27.3",
        "pg_status": {
            str(how.number(place)): _status(job, rank, name, done)
            for place, name in enumerate(name for name in groups if name in used)
        },
        "entries": [
            _entry(job, rank, number, call, numbers, [n for n in groups if n in used], how)
            for number, call in calls
        ],
    }


def role_of(group: str) -> str:
    """How a framework describes all groups of one axis."""
    axis = group.partition("_")[0]
    return group if axis == "default" else f"{axis.upper()}_GROUP"


def _status(job: AsyncJob, rank: int, group: str, done: set[int]) -> dict[str, int]:
    calls = [call for call in job.ranks[rank].enqueued if call.group == group]
    numbers = [call.p2p_seq if call.is_p2p else call.seq for call in calls]
    over = [n for n, call in zip(numbers, calls, strict=True) if id(call) in done]
    return {
        "last_enqueued_collective": numbers[-1] if numbers else -1,
        "last_started_collective": -1,
        "last_completed_collective": over[-1] if over else -1,
    }


def _entry(
    job: AsyncJob,
    rank: int,
    number: int,
    call: Call,
    numbers: dict[str, str],
    local: list[str],
    how: Recording,
) -> dict[str, Any]:
    members, created = job.programs.groups[call.group], BEGAN_NS + job.created(call) * CALL_NS
    over = id(call) in job.recorded_done(rank)
    started = how.timing and id(call) in job.ranks[rank].started
    if call.is_p2p and how.keeps_p2p_open:
        over = started = False
    op = call.op
    if call.is_p2p:
        arrow = "->" if op == "send" else "<-"
        op = f"{op} {members.index(rank)}{arrow}{members.index(call.peer)}"
    return {
        "record_id": number,
        "pg_id": how.number(local.index(call.group)),
        "thread_name": "pt_main_thread",
        "thread_id": str(1000 + rank),
        "process_group": (numbers[call.group], role_of(call.group)),
        "collective_seq_id": call.seq,
        "p2p_seq_id": call.p2p_seq,
        "op_id": call.seq + call.p2p_seq,
        "profiling_name": f"nccl:{op}",
        "time_created_ns": created,
        "input_sizes": [[call.size]],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [[call.size]],
        "output_dtypes": ["BFloat16"],
        "state": "completed" if over else "started" if started else "scheduled",
        "time_discovered_started_ns": created + CALL_NS // 2 if started else None,
        "time_discovered_completed_ns": None,
        "retired": over,
        "timeout_ms": 600_000,
        "is_p2p": call.is_p2p,
    }
