"""Which of the ranks that disagree about their calls does what no other rank of the job does.

Two ranks that wait for each other in different calls look alike. The calls of the others tell them apart:
how many calls of its other groups lie before a call, which call follows which, and what size it usually has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.state.model import Process
from distwatch.state.recorder_entries import Collective

_NAMELESS = ("", "undefined")
_COMPARED = 64
"""So many other ranks are asked, those that share a group with the ranks in question first."""
_ASKED = 16
"""Of more ranks than that, none is looked for: each is compared with each."""
_NEAR = 3
"""So many calls after the one in question show whether the rank goes on as usual."""
_OFTEN = 3
"""At so many places a call was followed by another: then what never followed it is not usual."""
_Token = tuple[str, object]
"""An operation and its sizes."""
_Place = tuple[str, int, str]
"""A description of a group, the number of a call in it, and the description of another group."""


class Count(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many calls of one group a rank made before a call in another."""

    value: int
    exact: bool = True
    """Else it is that of all its calls until now: some may have come after that call."""

    def differs(self, other: Count, certain: bool) -> int | None:
        """-1: fewer than the other's; 1: more; 0: as many; None: not known.

        Two counts of all calls until now differ also where one rank has only got farther, so `certain` leaves them out.
        """
        if self.exact == other.exact:
            if certain and not self.exact:
                return None
            return (self.value > other.value) - (self.value < other.value)
        if self.exact:
            return 1 if self.value > other.value else None
        return -1 if self.value < other.value else None


def odd_rank(job: Job, involved: Iterable[int], *, certain: bool = False) -> int | None:
    """The one of these ranks that came to its calls with other numbers of other calls before them.

    Ranks that play one part in a layout make the same calls: their groups have the same description.
    None where the other ranks do not decide.

    Args:
        certain: it is not known that the calls of one of these ranks are wrong, so only counts of calls
            count that were certainly made before.
    """
    asked = {rank for rank in involved if rank in job.ranks}
    if len(asked) > _ASKED:
        return None
    ranks = (*asked, *_others(job, asked))
    pipes = {desc for rank in ranks for desc in _pipes(job.ranks[rank])}
    calls = {rank: _Calls(job.ranks[rank], pipes) for rank in ranks}
    odd = [rank for rank in asked if _deviates(job, rank, calls, pipes, certain)]
    return odd[0] if len(odd) == 1 else None


def _others(job: Job, asked: set[int]) -> Iterable[int]:
    near = {
        member
        for rank in asked
        for group in job.ranks[rank].groups.values()
        for member in group.members[:_COMPARED]
    }
    known = [rank for rank in (*sorted(near), *job.ranks) if rank in job.ranks]
    return islice((rank for rank in dict.fromkeys(known) if rank not in asked), _COMPARED)


def _pipes(process: Process) -> set[str]:
    """Descriptions of its groups of sends and recvs: a pipeline's stages differ by right."""
    entries = process.collectives.entries if process.collectives else ()
    return {entry.pg_desc for entry in entries if entry.is_p2p}


def _deviates(
    job: Job, rank: int, calls: Mapping[int, _Calls], pipes: set[str], certain: bool
) -> bool:
    """Whether it alone has other counts than all others, always by the calls of one group."""
    partners = {
        member
        for group in job.ranks[rank].groups.values()
        if group.pg_desc != "default_pg" and group.pg_desc not in pipes
        for member in group.members
    }
    differing: list[frozenset[str]] = []
    for place, mine in calls[rank].counts.items():
        told = {
            other: how
            for other, its in calls.items()
            if other != rank and (how := its.differs_from(mine, place, certain)) is not None
        }
        if len(told) > 1 and set(told.values()) in ({1}, {-1}) and partners & told.keys():
            differing.append(frozenset((place[0], place[2])))
    return bool(differing) and bool(frozenset.intersection(*differing))


class _Calls:
    """A rank's collectives in those of its groups that have a description of their own.

    Attributes:
        counts: for each call that is among the rank's entries, how many calls of each other group lie before it.
    """

    def __init__(self, process: Process, pipes: set[str]) -> None:
        by_desc: dict[str, list[str]] = {}
        for group in process.groups.values():
            if group.pg_desc not in pipes and group.pg_desc not in _NAMELESS:
                by_desc.setdefault(group.pg_desc, []).append(group.pg_name)
        single = {names[0] for names in by_desc.values() if len(names) == 1}
        pulse = process.outside.pulse
        self._enqueued = {
            process.groups[told.pg_name].pg_desc: max(told.enqueued, 0)
            for told in (pulse.groups if pulse else ())
            if told.pg_name in single
        }
        entries = process.collectives.entries if process.collectives else ()
        calls = [entry for entry in entries if not entry.is_p2p and entry.pg_name in single]
        self.counts = self._counted(sorted(calls, key=lambda entry: entry.created_wall_ns))

    def _counted(self, calls: list[Collective]) -> dict[_Place, Count]:
        # Without completed calls among the entries, a group's newest call may lie before or after the open ones.
        newest = {
            entry.pg_desc for entry in calls if entry.seq == self._enqueued.get(entry.pg_desc)
        }
        exact = self._enqueued.keys() if any(entry.over for entry in calls) else newest
        first = {entry.pg_desc: entry for entry in reversed(calls)}
        before, broken = dict(self._enqueued), set[str]()
        found: dict[_Place, Count] = {}
        for entry in reversed(calls):
            if before.get(entry.pg_desc) != entry.seq:
                broken.add(entry.pg_desc)  # some of its calls are not among the entries
            before[entry.pg_desc] = entry.seq - 1
            if entry is first[entry.pg_desc] and entry.seq > 1:
                broken.add(entry.pg_desc)  # its calls before that may have come at any time
            for desc, count in before.items():
                if desc != entry.pg_desc and desc not in broken:
                    place = entry.pg_desc, entry.seq, desc
                    found[place] = Count(value=count, exact=desc in exact)
        return found

    def differs_from(self, mine: Count, place: _Place, certain: bool) -> int | None:
        """How another rank's count differs from this one's: 1: this one has made more; None: not known."""
        desc, seq, other = place
        if (told := self.counts.get(place)) is not None:
            how = told.differs(mine, certain)
        elif (
            not certain
            and self._enqueued.get(desc, seq) < seq
            and self._enqueued.get(other, 0) > mine.value
        ):
            how = 1  # it has not come to that call yet
        else:
            how = None
        return how


def usual_call(job: Job, members: Iterable[int], pg_name: str, seq: int) -> int | None:
    """Of two sides that made different calls as one number of a group, a rank that did what is usual.

    Usual is what the groups of the same description do at other places: the calls that follow each
    other, and the sizes of an operation. None where that does not decide.
    """
    mine = {rank: _calls_in(job, rank, pg_name) for rank in members if rank in job.ranks}
    mine = {rank: calls for rank, calls in mine.items() if seq in calls}
    sides = {calls[seq]: rank for rank, calls in mine.items()}
    desc = next((job.ranks[rank].groups[pg_name].pg_desc for rank in mine), "")
    if desc in _NAMELESS or len(sides) != 2:
        return None
    habits = _Habits(job, desc, pg_name, range(seq - 1, seq + _NEAR))
    keeps = {rank: habits.are_kept(mine[rank]) for rank in sides.values()}
    if len({op for op, _ in sides}) == 1:
        keeps |= {rank: habits.calls[token] > 0 for token, rank in sides.items()}
        keeps = keeps if max(habits.calls[token] for token in sides) > 1 else {}
    usual = [rank for rank, kept in keeps.items() if kept]
    return usual[0] if len(usual) == 1 and False in keeps.values() else None


class _Habits:
    """What the groups of one description do, but for some numbers of one group.

    Attributes:
        calls: how often each call was made.
    """

    def __init__(self, job: Job, desc: str, pg_name: str, except_at: range) -> None:
        self._except_at = except_at
        self.calls: Counter[_Token] = Counter()
        self._rows: Counter[tuple[_Token, _Token]] = Counter()
        self._followed: dict[_Token, set[int]] = {}
        """At which numbers each call was made that another followed: groups at one place of a loop say it once."""
        by_group: dict[str, dict[int, _Token]] = {}
        for rank, process in islice(job.ranks.items(), 4 * _COMPARED):
            for name in (g.pg_name for g in process.groups.values() if g.pg_desc == desc):
                by_group.setdefault(name, {}).update(_calls_in(job, rank, name))
        for name, calls in by_group.items():
            self._read(calls, except_at if name == pg_name else range(0))

    def _read(self, calls: Mapping[int, _Token], except_at: range) -> None:
        for seq, token in calls.items():
            if seq not in except_at:
                self.calls[token] += 1
                if seq + 1 in calls:
                    self._rows[token, calls[seq + 1]] += 1
                    self._followed.setdefault(token, set()).add(seq)

    def are_kept(self, calls: Mapping[int, _Token]) -> bool | None:
        """Whether these calls follow each other as elsewhere; None where that is not known."""
        near = self._except_at
        rows = [(calls[n], calls[n + 1]) for n in near if n in calls and n + 1 in calls]
        if any(
            self._is_often_followed(first) and not self._rows[first, then] for first, then in rows
        ):
            return False
        return True if any(self._rows[row] for row in rows) else None

    def _is_often_followed(self, token: _Token) -> bool:
        return len(self._followed.get(token, ())) >= _OFTEN


def _calls_in(job: Job, rank: int, pg_name: str) -> dict[int, _Token]:
    dumped = job.ranks[rank].collectives
    return {
        entry.seq: _token(entry)
        for entry in (dumped.entries if dumped else ())
        if entry.pg_name == pg_name and not entry.is_p2p
    }


def _token(entry: Collective) -> _Token:
    return operation_name(entry.op), (entry.input_sizes, entry.output_sizes)
