"""Entries of torch's flight recorder, short on the wire: what a loop repeats is written once.

A rank dumps about 64 entries for each of its groups, which often differ only in number and time. In
full they take 12 KB, and longer to read than all other results of a look; for ten thousand ranks the
root would be busy for seconds. No entry is dropped: the old ones show how often a loop ran, and where
the ranks diverged.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

import msgspec

LARGEST = 1 << 62
"""Larger numbers and times are invalid; the difference of two smaller ones can be written."""


def is_over(retired: bool, state: str) -> bool:
    """Whether a collective is complete, according to its entry.

    gloo leaves `state` at "scheduled" for ever and only retires entries; NCCL writes "completed".
    """
    return retired or state == "completed"


def is_p2p_over(p2p_seq: int, newest_collective: int, last_completed: int) -> bool:
    """Whether a send or recv has completed, by the status of its group.

    Entries of batched sends and recvs stay "scheduled" for good: pytorch#137969, up to torch 2.15. The
    status has the number of the newest completed call, of either kind: it is that of a send or recv where
    it is beyond all collectives of the group.
    """
    return p2p_seq <= last_completed > newest_collective


class Collective(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of torch's flight recorder."""

    pg_name: str
    pg_desc: str = ""
    seq: int
    """Its number in the group; sends and recvs are numbered apart from collectives."""
    op: str
    is_p2p: bool = False
    retired: bool = False
    state: str = ""
    input_sizes: tuple[tuple[int, ...], ...] = ()
    output_sizes: tuple[tuple[int, ...], ...] = ()
    input_dtypes: tuple[str, ...] = ()
    created_wall_ns: int = 0
    timeout_ms: int | None = None
    timed: bool = False
    """The recorder knows when calls start: an open collective that is not `started` has not started."""

    @property
    def over(self) -> bool:
        """See `is_over`."""
        return is_over(self.retired, self.state)


def completed_in(entries: tuple[Collective, ...]) -> dict[str, int]:
    """By group, the number up to which its collectives are over."""
    return _completed((entry, entry.seq) for entry in entries)


def _completed(told: Iterable[tuple[Collective, int]]) -> dict[str, int]:
    newest: dict[str, int] = {}
    first_open: dict[str, int] = {}
    for kind, seq in told:
        if kind.is_p2p:
            continue
        name = kind.pg_name
        if seq > newest.get(name, -1):
            newest[name] = seq
        if not kind.over:
            first_open[name] = min(first_open.get(name, seq), seq)
    return newest | {name: seq - 1 for name, seq in first_open.items()}


class PackedEntries(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Entries by kind; the number and time of each, minus those of the previous entry."""

    kinds: tuple[Collective, ...]
    """The distinct entries, without number and time."""
    kind_of: tuple[int, ...]
    seqs: tuple[int, ...]
    times_ns: tuple[int, ...]


def pack_entries(entries: tuple[Collective, ...]) -> PackedEntries | None:
    """The same entries in the same order; None without entries, or with invalid numbers."""
    kinds: dict[Collective, int] = {}
    kind_of: list[int] = []
    seqs: list[int] = []
    times_ns: list[int] = []
    seq = time_ns = 0
    for entry in entries:
        if not _can_be(entry.seq, entry.created_wall_ns):
            return None
        kind = msgspec.structs.replace(entry, seq=0, created_wall_ns=0)
        kind_of.append(kinds.setdefault(kind, len(kinds)))
        seqs.append(entry.seq - seq)
        times_ns.append(entry.created_wall_ns - time_ns)
        seq, time_ns = entry.seq, entry.created_wall_ns
    if not entries:
        return None
    return PackedEntries(tuple(kinds), tuple(kind_of), tuple(seqs), tuple(times_ns))


def _can_be(seq: int, time_ns: int) -> bool:
    return -LARGEST < seq < LARGEST and -LARGEST < time_ns < LARGEST


def check_packed(packed: PackedEntries) -> None:
    """Raises ValidationError where it was not packed by `pack_entries`."""
    kind_of = packed.kind_of
    if not len(kind_of) == len(packed.seqs) == len(packed.times_ns):
        raise msgspec.ValidationError("an entry that is not whole")
    if not set(kind_of).issubset(range(len(packed.kinds))):
        raise msgspec.ValidationError("an entry without a kind")
    for column in (packed.seqs, packed.times_ns):
        # No sum is beyond that of all sizes: of most columns, no more needs to be asked.
        if sum(map(abs, column)) >= LARGEST and not all(
            -LARGEST < n < LARGEST for n in accumulate(column)
        ):
            raise msgspec.ValidationError("an entry whose numbers are out of range")


def completed_of(packed: PackedEntries) -> dict[str, int]:
    """As `completed_in`, of the same entries."""
    kinds = packed.kinds
    return _completed(
        zip((kinds[kind] for kind in packed.kind_of), accumulate(packed.seqs), strict=True)
    )


def unpack_entries(packed: PackedEntries) -> tuple[Collective, ...]:
    """Reverses `pack_entries`; equal kinds share their strings across all dumps."""
    kinds = [_one(kind) for kind in packed.kinds]
    alike = msgspec.structs.replace
    told = zip(packed.kind_of, accumulate(packed.seqs), accumulate(packed.times_ns), strict=True)
    return tuple([alike(kinds[kind], seq=seq, created_wall_ns=at) for kind, seq, at in told])


@lru_cache(maxsize=4096)
def _one(kind: Collective) -> Collective:
    """The first of all equal kinds: ranks of one job make the same calls."""
    return kind
