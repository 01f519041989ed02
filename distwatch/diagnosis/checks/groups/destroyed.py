"""group.destroyed: a rank destroyed a group that others still use."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.communication import CLOSED_BY_PEER
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.job import was_cut_off
from distwatch.diagnosis.facts.signals import first_line
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    call_by_stack,
    is_seen_from_outside,
    settled_s,
)
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

SETTLED_S = 2.0


class GroupDestroyed:
    """Members wait in the group, or have lost their peer in it, and a rank that lives has destroyed it."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            without = _destroyed_by(case, view)
            using = _still_using(case, view, without) if without else ()
            if using:
                yield self._finding(case, view, without, using)
        if is_seen_from_outside(case.job) and (left := _left_behind(case)):
            yield self._by_lost_peers(case, left)

    def _by_lost_peers(self, case: Case, left: tuple[int, ...]) -> Finding:
        """Nobody saw the call: the others' errors, and where the rank is, show that it was made."""
        victims = tuple(sorted(case.deaths.victims))
        where = case.where(left[0]) if len(left) == 1 else ""
        said = {r: p.exception for r in victims if (p := case.deaths.victims[r]).exception}
        return Finding(
            code="group.destroyed",
            severity="crash",
            culprit_ranks=left,
            waiting_ranks=victims,
            summary=f"{name_ranks(left, 'lives', 'live')} in no call of torch.distributed, and {name_ranks(victims)} "
            f"ended because a peer had closed its connection"
            f"{f'; rank {left[0]} is at {where}' if where else ''}",
            evidence=(
                *(
                    Evidence("exit", f"rank {rank}: {error.type_name}: {first_line(error.message)}", rank)
                    for rank, error in list(said.items())[:4] if error
                ),
                *(case.place(rank) for rank in left[:8]),
            ),
            confidence=0.6,
        )  # fmt: skip

    def _finding(
        self, case: Case, view: GroupView, without: dict[int, int], using: tuple[int, ...]
    ) -> Finding:
        first = min(without)
        ago = seconds(case.job.age_s(case.job.ranks[first], without[first]))
        gone = all(case.job.ranks[rank].ended_ns is not None for rank in using)
        call = f"{view.op or 'collective'} #{_newest(case, view, using)} of {view.title}"
        where = case.where(first) if len(without) == 1 else ""
        return Finding(
            code="group.destroyed",
            severity="crash" if gone else "hang",
            culprit_ranks=tuple(without),
            waiting_ranks=tuple(using),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{name_ranks(without)} destroyed {view.title} {ago} ago, and {name_ranks(using)} still "
            f"called {call}{f'; rank {first} is at {where}' if where else ''}",
            evidence=(
                *(
                    Evidence("journal", f"rank {rank} destroyed {view.title}, after #{_last(case, view, rank)}", rank)
                    for rank in list(without)[:4]
                ),
                *(case.place(rank) for rank in [*without, *using][:8]),
            ),
            confidence=0.9,
        )  # fmt: skip


def _left_behind(case: Case) -> tuple[int, ...]:
    """Of a job that only stacks tell of: the living ranks, where all others ended for want of a peer."""
    ranks, deaths = case.job.ranks, case.deaths
    living = {rank: p for rank, p in ranks.items() if p.ended_ns is None and p.exception is None}
    if not living or len(ranks) < (case.job.world or 0) or deaths.own or deaths.clean:
        return ()
    errors = [process.exception for process in deaths.victims.values()]
    closed = [error for error in errors if error and CLOSED_BY_PEER.search(error.message)]
    if not closed or len(closed) < len(errors):
        return ()
    at_work = all(
        settled_s(p) >= STILL_S and call_by_stack(case.job, p) is None and not is_in_init_by_stack(p)
        for p in living.values()
    )  # fmt: skip
    return tuple(sorted(living)) if at_work else ()


def _destroyed_by(case: Case, view: GroupView) -> dict[int, int]:
    """Ranks that destroyed it and were not themselves done for, with the time."""
    found: dict[int, int] = {}
    for rank in view.members:
        process = case.job.ranks.get(rank)
        group = process.groups.get(view.pg_name) if process is not None else None
        if process is None or group is None or group.destroyed_ns is None:
            continue
        if process.exception is None and (process.ended_ns is None or was_cut_off(process)):
            found[rank] = group.destroyed_ns
    return found


def _still_using(case: Case, view: GroupView, without: dict[int, int]) -> tuple[int, ...]:
    """Members that made more calls than those ranks did, and wait, or failed in one of them."""
    fewer = max(_last(case, view, rank) for rank in without)
    waiting = set(view.entered) if view.in_flight and view.waited_s >= SETTLED_S else set()
    lost = set(case.deaths.victims)
    return tuple(
        rank
        for rank in view.members
        if rank not in without and rank in waiting | lost and _last(case, view, rank) > fewer
    )


def _last(case: Case, view: GroupView, rank: int) -> int:
    """The number of the last collective that it called in the group."""
    process = case.job.ranks[rank]
    called = max(
        (o.seq for o in process.outside.operations if o.pg_name == view.pg_name), default=-1
    )
    progress = view.progress.get(rank)
    return max(called, progress.enqueued if progress is not None else -1)


def _newest(case: Case, view: GroupView, ranks: Iterable[int]) -> int:
    return max(_last(case, view, rank) for rank in ranks)
