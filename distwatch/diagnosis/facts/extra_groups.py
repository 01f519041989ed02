"""Process groups beside the default world: who has come to each, and who has not.

Weight-sync groups and bare stores number their members themselves, and may join processes of several
worlds of a run.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.endpoints import read_endpoint, same_endpoint
from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.state.events import ExtraGroupJoined
from distwatch.state.model import Process, RunState, Step


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """One rendezvous of several processes beside the default group."""

    joined: tuple[tuple[Process, ExtraGroupJoined], ...]
    size: int

    @property
    def title(self) -> str:
        """`group weight_update at 10.0.0.1:29600`."""
        named = next((one.name for _, one in self.joined if one.name), "")
        endpoint = next((one.endpoint for _, one in self.joined if one.endpoint), "")
        return (f"group {named!r}" if named else "the store") + (
            f" at {endpoint}" if endpoint else ""
        )

    @property
    def come(self) -> dict[int, Process]:
        """Processes by the rank that they have there."""
        return {one.group_rank: p for p, one in self.joined if one.group_rank is not None}

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks there that no process has taken; () where those that joined have no numbers."""
        if any(one.group_rank is None for _, one in self.joined):
            return ()
        return tuple(sorted(set(range(self.size)) - set(self.come)))

    @property
    def absent(self) -> int:
        """How many members have not joined."""
        return len(self.missing) or max(0, self.size - len(self.joined))


def meeting_of(state: RunState, process: Process, one: ExtraGroupJoined) -> Meeting:
    """The rendezvous that this process is in, with everybody who has joined it."""
    return _meeting(
        (other, theirs)
        for other in everybody(state)
        for theirs in other.extra_groups.values()
        if (other is process and theirs is one)
        or (other is not process and _same(state, process, one, other, theirs))
    )


def named_meetings(state: RunState, processes: Iterable[Process]) -> list[Meeting]:
    """The rendezvous of groups with a name that these processes are in, among themselves.

    There may be very many, as where each pair of ranks has a group of its own.
    """
    at: dict[tuple[str, int, str], list[list[tuple[Process, ExtraGroupJoined]]]] = {}
    for process in processes:
        for one in process.extra_groups.values():
            if one.name:
                key = one.name, one.of_name, one.endpoint.rpartition(":")[2]
                alike = at.setdefault(key, [])
                found = next((m for m in alike if _same(state, *m[0], process, one)), None)
                if found is None:
                    alike.append([(process, one)])
                else:
                    found.append((process, one))
    return [_meeting(joined) for alike in at.values() for joined in alike]


def _meeting(joined: Iterable[tuple[Process, ExtraGroupJoined]]) -> Meeting:
    joined = tuple(joined)
    sizes = [theirs.size for _, theirs in joined if theirs.size]
    # On a tie what rank 0 says, to which the others connect: a member may not have come yet.
    hosts = {theirs.size for _, theirs in joined if theirs.group_rank == 0}
    size = max(sizes, key=lambda one: (sizes.count(one), one in hosts), default=len(joined))
    return Meeting(joined=joined, size=size)


def absent_processes(state: RunState, meeting: Meeting) -> tuple[list[Process], str]:
    """The processes that are missing, and how that is known; none where that is not certain."""
    come = {process.key for process, _ in meeting.joined}
    for process, one in meeting.joined:
        before = _before(process, one)
        if before is None:
            continue
        earlier = meeting_of(state, process, before).come
        found = [earlier[rank] for rank in meeting.missing if rank in earlier]
        if found and len(found) == meeting.absent and not come & {p.key for p in found}:
            return found, "as when this group formed before"
    others = [p for p in everybody(state) if p.key not in come]
    if len(others) == meeting.absent:
        told = (
            "all other processes of this run have joined" if come else "there is no other process"
        )
        return others, told
    return [], ""


def at_other_addresses(state: RunState, meeting: Meeting) -> list[tuple[Process, ExtraGroupJoined]]:
    """The missing members where all of them wait for a group of this size elsewhere."""
    here = {one.endpoint for _, one in meeting.joined}
    come = {process.key for process, _ in meeting.joined}
    found = {
        one.group_rank: (process, one)
        for process in everybody(state)
        for one, _ in open_meetings(process)
        if process.key not in come and one.size == meeting.size and one.endpoint not in here
    }
    if not meeting.missing or set(found) != set(meeting.missing):
        return []
    return list(found.values())


def _before(process: Process, one: ExtraGroupJoined) -> ExtraGroupJoined | None:
    """The rendezvous of the same name that this process joined before."""
    worlds = process.extra_groups.values()
    earlier = [o for o in worlds if one.name and o.name == one.name and o.number < one.number]
    return max(earlier, key=lambda o: o.number, default=None)


def _same(
    state: RunState,
    process: Process,
    one: ExtraGroupJoined,
    other: Process,
    theirs: ExtraGroupJoined,
) -> bool:
    known = one.endpoint and (process.host, one.endpoint) == (other.host, theirs.endpoint)
    if not known:
        here, there = (
            read_endpoint(joined.endpoint, at.host)
            for at, joined in ((process, one), (other, theirs))
        )
        if not same_endpoint(here, there, state):
            return False
    if one.name and theirs.name:
        return one.name == theirs.name and one.of_name == theirs.of_name
    return one.at_endpoint == theirs.at_endpoint


def everybody(state: RunState) -> list[Process]:
    """Every process of the run that is or will be a rank of some world."""
    return [process for world in worlds_of(state) for process in world]


def open_meetings(process: Process) -> list[tuple[ExtraGroupJoined, Step]]:
    """The rendezvous that it waits in, with the step: an ended process waits for nothing."""
    if process.ended_ns is not None:
        return []
    steps = process.steps
    return [
        (one, steps[one.step])
        for one in process.extra_groups.values()
        if one.step in steps and steps[one.step].ended_ns is None
    ]
