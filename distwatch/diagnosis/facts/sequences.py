"""What each rank called in a group, number by number, and where the ranks' sequences split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.state.events import Operation, Site
from distwatch.state.finding import Evidence, Source
from distwatch.state.model import Process
from distwatch.state.rank_sets import name_by
from distwatch.state.recorder_entries import Collective

_BEFORE = 3
_RANKS = 4


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One collective of one rank; two with the same place are the same step of a loop."""

    seq: int
    op: str
    size: str
    numel: int = -1
    dtype: str = ""
    parts: int = 0
    """Equal parts in which a gather or a scatter cuts the larger of its two sizes; 0: not known."""
    root: int = -1
    """The global rank that it names as src or dst; -1: none, or not known."""
    site: Site | None = None
    source: Source = "flight_recorder"

    @property
    def place(self) -> tuple[str, str]:
        """Where Python called it; else its operation, since DDP calls from C++."""
        return self.op, str(self.site) if self.site else self.size

    def __str__(self) -> str:
        if self.site is None:
            return f"{self.op} {self.size}".strip()
        return f"{self.op} at {short_site(self.site.file, self.site.line, self.site.function)}"


def history_of(case: Case, view: GroupView, rank: int) -> dict[int, Entry]:
    """A rank's remembered collectives in the group, by number.

    The recorder also has what C++ called; the ring also has what came after the last dump.
    """
    process = case.job.ranks[rank]
    entries = {
        recorded.seq: of_recorder(process, recorded) for recorded in _recorded(process, view)
    }
    for called in _called(process, view):
        entries[called.seq] = of_ring(process, called)
    return entries


def entry_at(case: Case, view: GroupView, rank: int, seq: int) -> Entry | None:
    """What `history_of` has under one number."""
    process = case.job.ranks.get(rank)
    if process is None:
        return None
    if called := case.job.operation(rank, view.pg_name, seq):
        return of_ring(process, called)
    recorded = case.job.recorded(rank, view.pg_name, seq)
    return of_recorder(process, recorded) if recorded else None


def newest_of(case: Case, view: GroupView, rank: int) -> int | None:
    """The greatest number that `history_of` has; None where it has none."""
    process = case.job.ranks[rank]
    recorded = max((entry.seq for entry in _recorded(process, view)), default=None)
    called = max((entry.seq for entry in _called(process, view)), default=None)
    return max((seq for seq in (recorded, called) if seq is not None), default=None)


def _recorded(process: Process, view: GroupView) -> Iterator[Collective]:
    for recorded in process.collectives.entries if process.collectives else ():
        if recorded.pg_name == view.pg_name and not recorded.is_p2p:
            yield recorded


def _called(process: Process, view: GroupView) -> Iterator[Operation]:
    for called in process.outside.operations:
        if called.pg_name == view.pg_name and called.seq >= 0:
            yield called


def called_natively_since(process: Process, pg_name: str, seq: int) -> int:
    """The number that the rank has reached in the group, where that is beyond #seq, its last call from Python.

    DDP, FSDP and DTensor call from C++. 0: none is known.
    """
    pulse = process.outside.pulse
    reached = (p.enqueued for p in pulse.groups if p.pg_name == pg_name) if pulse else ()
    newest = max(reached, default=0)
    return newest if newest > seq else 0


def of_recorder(_: Process, recorded: Collective) -> Entry:
    """A call as the flight recorder has it."""
    sizes = recorded.input_sizes or recorded.output_sizes
    return Entry(
        seq=recorded.seq,
        op=operation_name(recorded.op),
        size=str([list(size) for size in sizes]),
        numel=math.prod(sizes[0]) if sizes else -1,
        dtype=recorded.input_dtypes[0].lower() if recorded.input_dtypes else "",
        parts=_parts(recorded),
    )


def _parts(recorded: Collective) -> int:
    given = sum(math.prod(size) for size in recorded.input_sizes)
    taken = sum(math.prod(size) for size in recorded.output_sizes)
    name = operation_name(recorded.op)
    if name.startswith("reduce_scatter"):
        given, taken = taken, given
    elif not name.startswith("all_gather"):
        return 0
    return taken // given if given > 0 and taken % given == 0 else 0


def of_ring(process: Process, called: Operation) -> Entry:
    """A call as the process's operations ring has it."""
    return Entry(
        seq=called.seq,
        op=operation_name(called.op),
        size=f"[{called.numel}]",
        numel=called.numel,
        dtype=called.dtype,
        root=_root_of(process, called),
        site=process.sites.get(called.site),
        source="operations",
    )


def _root_of(process: Process, called: Operation) -> int:
    group = process.groups.get(called.pg_name)
    members = group.members if group is not None else ()
    return members[called.peer] if 0 <= called.peer < len(members) else -1


def sequence_evidence(
    case: Case, view: GroupView, odd: Iterable[int], seq: int
) -> Iterable[Evidence]:
    """What ranks of both sides did before #seq, and where their call sites begin to differ."""
    histories = {r: history_of(case, view, r) for r in view.members if r in case.job.ranks}
    blamed = [rank for rank in odd if histories.get(rank)]
    others = [rank for rank in histories if histories[rank] and rank not in blamed]
    for rank in [*blamed[: _RANKS // 2], *others[: _RANKS // 2]]:
        entries = histories[rank]
        before = [entries[n] for n in range(seq - _BEFORE, seq) if n in entries]
        if before:
            calls = ", ".join(f"#{entry.seq} {entry}" for entry in before)
            text = f"rank {rank} did before: {calls}"
            yield Evidence("operations", text, rank)
    parted = _first_other_site(histories, seq)
    if parted is not None and parted < seq:
        at = {r: str(entries[parted]) for r, entries in histories.items() if parted in entries}
        sides = "; ".join(name_by(at)[:_RANKS])
        yield Evidence(
            "operations",
            f"the call sites differ from #{parted} on, while the calls still matched: {sides}",
        )


def _first_other_site(histories: dict[int, dict[int, Entry]], seq: int) -> int | None:
    """The number from which on no call comes from one place on all ranks; None where there is none."""
    parted: int | None = None
    for number in range(seq, 0, -1):
        sites = [entries[number].site for entries in histories.values() if number in entries]
        if len(sites) < 2 or None in sites:
            break
        if len(set(sites)) == 1:
            break
        parted = number
    return parted
