"""Which of the ranks that call their groups in different orders does what no other rank does.

Ranks that play one part in a layout make the same calls: their groups have the same description, and the
same number of calls lie before a call of the same number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.state.model import Process

_NAMELESS = ("", "undefined")


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """A rank, and the collective that it has come to."""

    global_rank: int
    pg_name: str
    seq: int


def odd_rank(job: Job, stands: Iterable[Stand]) -> int | None:
    """The one that came to its call with another number of other calls before it than all others.

    None where the other ranks do not decide.
    """
    stands = list(stands)
    involved = {stand.global_rank for stand in stands}
    odd = [stand.global_rank for stand in stands if _is_odd(job, stand, involved)]
    return odd[0] if len(odd) == 1 else None


def _is_odd(job: Job, stand: Stand, involved: set[int]) -> bool:
    group = job.ranks[stand.global_rank].groups.get(stand.pg_name)
    desc = group.pg_desc if group else ""
    mine = _counts_before(job.ranks[stand.global_rank], desc, stand.seq)
    if desc in _NAMELESS or mine is None:
        return False
    others = Counter(
        tuple(sorted(counts.items()))
        for rank, process in job.ranks.items()
        if rank not in involved and (counts := _counts_before(process, desc, stand.seq)) is not None
    )
    if not others or tuple(sorted(mine.items())) in others:
        return False
    usual, most = others.most_common(1)[0]
    differing = dict(usual).items() ^ mine.items()
    return most * 2 > others.total() and most > 1 and len({name for name, _ in differing}) == 1


def _counts_before(process: Process, desc: str, seq: int) -> dict[str, int] | None:
    """By description of a group, the number of its newest collective before that call.

    None where the call is not among the rank's entries.
    """
    entries = process.collectives.entries if process.collectives else ()
    calls = sorted((e for e in entries if not e.is_p2p), key=lambda entry: entry.created_wall_ns)
    place = next((n for n, e in enumerate(calls) if (e.pg_desc, e.seq) == (desc, seq)), None)
    if place is None:
        return None
    pulse = process.outside.pulse
    counts = {
        group.pg_desc: told.enqueued
        for told in (pulse.groups if pulse else ())
        if (group := process.groups.get(told.pg_name)) is not None and told.enqueued >= 0
    }
    for entry in reversed(calls[place:]):
        counts[entry.pg_desc] = entry.seq - 1
    return {name: count for name, count in counts.items() if name not in _NAMELESS}
