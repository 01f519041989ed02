"""Process groups across ranks: which ranks are in the collective in flight, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import msgspec

from distwatch.diagnosis.facts.collective_wait import Wait
from distwatch.diagnosis.facts.device_work import runs_on_device
from distwatch.diagnosis.facts.hearings import OUTDATED
from distwatch.diagnosis.facts.job import GroupKey, Job
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.state.events import GroupProgress
from distwatch.state.model import Group, Process


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """One process group of the job. Group names repeat: name and members together identify it."""

    pg_name: str
    pg_desc: str
    backend: str
    members: tuple[int, ...]
    axis: str = ""
    """The axis of the mesh that the group runs along; empty where none is known."""
    progress: dict[int, GroupProgress] = {}
    """By global rank. A member that is absent here was not observed."""
    seq: int = -1
    """The collective in flight, else the newest that any member has entered; -1: none."""
    op: str = ""
    entered: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    """Members that are not seen in collective #seq while it is in flight."""
    in_flight: bool = False
    waited_s: float = 0.0
    overdue: bool = False
    timed_out: tuple[int, ...] = ()
    """Members that torch's own timeout ended in this collective."""
    timeout_s: float | None = None
    world: str = ""
    """The store of a separate world, beside the job's; empty for any other group."""

    @property
    def on_device(self) -> bool:
        """Whether its calls are enqueued on a device and run later."""
        return runs_on_device(self.backend)

    @property
    def title(self) -> str:
        """The group's name for people: its description, and its name where that adds something."""
        if self.world:
            return f"{self.pg_name}, a separate world at {self.world}"
        if self.pg_desc == "default_pg":
            return f"default_pg, axis {self.axis}" if self.axis else "default_pg"
        # A mesh describes its groups only by the axis; a framework has names of its own.
        named = self.pg_desc not in ("", "undefined") and not self.pg_desc.startswith("mesh_")
        if self.axis:
            axis = f"axis {self.axis}"
            return (
                f"{self.pg_desc} ({axis}, {self.pg_name})" if named else f"{axis} ({self.pg_name})"
            )
        return f"{self.pg_desc} ({self.pg_name})" if named else f"group {self.pg_name}"

    @property
    def call(self) -> str:
        """`all_reduce #14 of default_pg`."""
        return f"{self.op or 'collective'} #{self.seq} of {self.title}"


def groups_of(job: Job) -> list[GroupView]:
    """All groups that some rank of the newest restart holds, the default group first."""
    found: dict[tuple[GroupKey, str], list[Group]] = {}
    for process in job.ranks.values():
        for group in process.groups.values():
            key = job.group_key(group.pg_name, group.members)
            found.setdefault((key, group.world), []).append(group)
    called = {rank: _newest_calls(process) for rank, process in job.ranks.items()}
    views = [_view(job, held, called) for held in found.values()]
    return sorted(views, key=lambda view: (len(view.pg_name), view.pg_name, view.members))


def _newest_calls(process: Process) -> dict[str, int]:
    """By group, the newest collective that it is seen to have called: one pass for all of its groups."""
    newest: dict[str, int] = {}
    for operation in process.outside.operations:
        name, seq = operation.pg_name, operation.seq
        if seq > newest.get(name, -1):
            newest[name] = seq
    return newest


def _view(job: Job, held: list[Group], called: dict[int, dict[str, int]]) -> GroupView:
    first = held[0]
    progress = _progress(job, first, called)
    waits = job.waits_in(first.pg_name, first.members)
    view = GroupView(
        pg_name=first.pg_name,
        pg_desc=next((group.pg_desc for group in held if group.pg_desc), ""),
        backend=first.backend,
        members=first.members,
        axis=next((group.axis for group in held if group.axis), ""),
        progress=progress,
        seq=max((p.enqueued for p in progress.values()), default=-1),
        timeout_s=min((g.timeout_s for g in held if g.timeout_s), default=None),
        world=first.world,
    )
    if first.world and not first.members:
        # It has members of other worlds: only those of this job are known.
        holders = tuple(r for r, p in job.ranks.items() if p.groups.get(first.pg_name) in held)
        return msgspec.structs.replace(view, members=holders)
    if not waits:
        return msgspec.structs.replace(view, op=_operation(job, view, view.seq))
    later = _later_waits(waits, progress)
    waits = [w for w in waits if not _is_outdated(job, w, *later[w.seq])] or waits
    return _in_flight(job, view, waits)


def _in_flight(job: Job, view: GroupView, waits: Sequence[Wait]) -> GroupView:
    """The view with the oldest of the calls in which those ranks wait."""
    seq = min(wait.seq for wait in waits)
    waits = [wait for wait in waits if wait.seq == seq]
    entered = tuple(rank for rank in view.members if _has_entered(view.progress.get(rank), seq))
    inside = set(entered)
    missing = tuple(rank for rank in view.members if rank not in inside)
    waited_s = max(wait.waited_s for wait in waits)
    # They would be blamed because what they tell is late.
    may_have_gone_on, limit_s = job.hearings.may_have_gone_on, min(w.deadline_s for w in waits)
    if any(may_have_gone_on(job.ranks.get(rank), waited_s, limit_s) for rank in missing):
        return msgspec.structs.replace(view, op=_operation(job, view, view.seq))
    return msgspec.structs.replace(
        view,
        seq=seq,
        op=_operation(job, view, seq),
        in_flight=True,
        entered=entered,
        missing=missing,
        waited_s=waited_s,
        overdue=any(wait.overdue for wait in waits),
        timed_out=tuple(sorted(wait.global_rank for wait in waits if wait.timed_out)),
    )


def _later_waits(
    waits: Sequence[Wait], progress: dict[int, GroupProgress]
) -> dict[int, tuple[float | None, int]]:
    """For each call that ranks wait in, what is seen of those in later calls.

    The longest wait of them, None where there are none; and the newest call that one of them has completed.
    """
    found: dict[int, tuple[float | None, int]] = {}
    longest_s: float | None = None
    completed = -1
    latest_first = sorted(waits, key=lambda wait: -wait.seq)
    for seq, together in groupby(latest_first, key=lambda wait: wait.seq):
        found[seq] = longest_s, completed
        for wait in together:
            longest_s = max(longest_s or 0.0, wait.waited_s)
            if wait.global_rank in progress:
                completed = max(completed, progress[wait.global_rank].completed)
    return found


def _is_outdated(job: Job, wait: Wait, longest_s: float | None, completed: int) -> bool:
    """Whether its rank has said nothing since others went on from that call: on a crowded host it may be late.

    Args:
        longest_s, completed: of those who wait in later calls.
    """
    process = job.ranks[wait.global_rank]
    age_s = job.heartbeat_s(process)
    if age_s is None or longest_s is None:
        return False
    # Its next pulse may still be under way.
    if age_s + job.hearings.behind_s(process) < OUTDATED * longest_s:
        return False
    return completed >= wait.seq


def _progress(
    job: Job, group: Group, called: dict[int, dict[str, int]]
) -> dict[int, GroupProgress]:
    progress: dict[int, GroupProgress] = {}
    for rank in group.members:
        process = job.ranks.get(rank)
        pulse = process.outside.pulse if process else None
        if process is None or pulse is None or group.pg_name not in process.groups:
            continue
        seen = next((p for p in pulse.groups if p.pg_name == group.pg_name), None)
        seen = seen or GroupProgress(pg_name=group.pg_name)
        # The agent's thread polls the numbers; a rank that froze before its next poll has called more.
        newest = called[rank].get(group.pg_name, -1)
        if newest > seen.enqueued:
            seen = msgspec.structs.replace(seen, enqueued=newest)
        progress[rank] = seen
    return progress


def _has_entered(progress: GroupProgress | None, seq: int) -> bool:
    return progress is not None and progress.enqueued >= seq


def _operation(job: Job, view: GroupView, seq: int) -> str:
    for rank in view.members:
        operation = job.operation(rank, view.pg_name, seq)
        recorded = None if operation else job.recorded(rank, view.pg_name, seq)
        if found := (operation or recorded):
            return operation_name(found.op)
    return ""
