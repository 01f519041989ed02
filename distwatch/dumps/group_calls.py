"""What a rank's dump tells of each of its groups: its entries, and how far the group's numbers have come."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.dumps.recorder import Entry, RecorderDump, Status
from distwatch.state import events as ev
from distwatch.state.recorder_entries import is_p2p_over

Group = tuple[str, str]
"""Name and description."""


class GroupCalls(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's calls in one group, oldest first."""

    group: Group
    entries: list[Entry]
    status: Status | None = None
    counts_p2p: bool = False
    """Whether the group's statuses may have numbers of sends and recvs, at this rank or another one."""

    @property
    def has_p2p(self) -> bool:
        return any(entry.is_p2p for entry in self.entries)

    def is_over(self, entry: Entry) -> bool:
        """Whether a call has completed, by its entry or by the group's status."""
        if entry.over or not entry.is_p2p or self.status is None:
            return entry.over
        completed = self.status.last_completed_collective
        # Of a group that also has collectives, the status has the number of its newest call of either kind.
        is_idle = self.status.last_enqueued_collective == completed >= 0 and not self.unfinished
        return is_idle or is_p2p_over(entry.p2p_seq_id, self.newest_collective, completed)

    @property
    def unfinished(self) -> list[Entry]:
        """Its collectives that are open."""
        return [entry for entry in self.entries if not entry.is_p2p and not entry.over]

    @property
    def shows_p2p(self) -> bool:
        """Whether its status may have the number of a send or recv: it then says that an open collective is over."""
        if self.status is None:
            return self.has_p2p
        completed = self.status.last_completed_collective
        return self.has_p2p or any(entry.seq <= completed for entry in self.unfinished)

    @property
    def newest_collective(self) -> int:
        return max((entry.seq for entry in self.entries), default=-1)

    def progress(self) -> ev.GroupProgress:
        """By its entries, and by the status where that cannot be a number of sends and recvs."""
        unfinished = self.unfinished
        enqueued = self.newest_collective
        completed = min((entry.seq for entry in unfinished), default=enqueued + 1) - 1
        started = -1
        if self.status is not None and not self.counts_p2p:
            # The status continues where the ring has dropped entries, and has what NCCL's states lack.
            enqueued = max(enqueued, self.status.last_enqueued_collective)
            completed = max(completed, self.status.last_completed_collective)
            started = self.status.last_started_collective
        changed = min((entry.time_created_ns for entry in unfinished), default=0)
        changed = changed or max((entry.time_created_ns for entry in self.entries), default=0)
        return ev.GroupProgress(
            pg_name=self.group[0],
            enqueued=enqueued,
            completed=completed,
            changed_ns=changed,
            started=started,
        )

    def newest(self, most: int) -> list[Entry]:
        """Its newest entries; of more open calls than that, also the oldest: there the rank stands."""
        first = next((n for n, e in enumerate(self.entries) if not self.is_over(e)), 0)
        if not first or len(self.entries) - first <= most:
            return self.entries[-most:]
        half = (most + 1) // 2
        return self.entries[first : first + half] + self.entries[-(most - half) :]


def calls_of(dump: RecorderDump) -> dict[Group, GroupCalls]:
    """By group, what a rank's dump tells; also of groups that only its status names."""
    by_group: dict[Group, list[Entry]] = {}
    for entry in sorted(dump.entries, key=lambda one: one.record_id):
        by_group.setdefault(entry.process_group, []).append(entry)
    numbers = {str(entries[0].pg_id): group for group, entries in by_group.items()}
    numbers |= {
        pg_id: group for pg_id, group in _by_creation(dump, numbers) if pg_id not in numbers
    }
    statuses = {group: dump.pg_status.get(pg_id) for pg_id, group in numbers.items()}
    return {
        group: GroupCalls(group=group, entries=by_group.get(group, []), status=status)
        for group, status in statuses.items()
    }


def _by_creation(dump: RecorderDump, known: dict[str, Group]) -> Iterable[tuple[str, Group]]:
    """Names of the numbers in a status: both go by the order of creation.

    A number is local to a rank; only entries say which group has it.
    """
    names = sorted((n for n in dump.pg_config if n.isdecimal()), key=int)
    ids = sorted((n for n in dump.pg_status if n.isdecimal()), key=int)
    if len(names) != len(dump.pg_config) or len(names) != len(ids):
        return
    pairs = [
        (pg_id, (dump.pg_config[name].name or name, dump.pg_config[name].desc))
        for pg_id, name in zip(ids, names, strict=True)
    ]
    if all(known.get(pg_id, group)[0] == group[0] for pg_id, group in pairs):
        yield from pairs
