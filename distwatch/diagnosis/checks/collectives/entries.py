"""collective.*: ranks that never entered a collective, and ranks that entered another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.activity import activity_of, spins
from distwatch.diagnosis.facts.call_order import odd_rank, usual_call
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.collective_wait import Wait
from distwatch.diagnosis.facts.device_faults import device_evidence
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.sequences import (
    Entry,
    entry_at,
    of_recorder,
    of_ring,
    sequence_evidence,
)
from distwatch.state.events import Operation
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_by, name_ranks
from distwatch.state.recorder_entries import Collective

LATE_SHARE = 0.5
MOVES_S = 60.0
SETTLED_S = 1.0
"""A difference counts once the collective has not completed for this long."""
_UNDECIDED, _BY_HABIT = 0.7, 0.8
"""Confidence where no side of a difference has more ranks: nothing else decides, or what other groups usually call."""
_SAME_SHAPE = frozenset(
    {"all_reduce", "broadcast", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor"}
)
_SAME_DTYPE = _SAME_SHAPE | {"all_gather"}
ASPECTS = {
    "op": "collective.op_mismatch",
    "root": "collective.root_disagrees",
    "dtype": "collective.dtype_mismatch",
    "shape": "collective.shape_mismatch",
}
_ROOT_WORDS = {"broadcast": "src", "scatter": "src", "reduce": "dst", "gather": "dst"}
_Call = TypeVar("_Call", Operation, Collective)


class CollectiveRankMissing:
    """collective.rank_missing: some members are in #n past the deadline, others never entered it."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if not (view.in_flight and view.overdue and view.missing) or view.on_device:
                continue  # what runs on devices is judged by their queues
            if all(debugged_by_intent(case, rank) for rank in view.missing):
                continue  # somebody is debugging them on purpose
            yield self._finding(case, view)

    def _finding(self, case: Case, view: GroupView) -> Finding:
        busy = {rank for rank in view.missing if case.graph.is_waiting(rank)}
        culprits = tuple(rank for rank in view.missing if rank not in busy)
        seen = [rank for rank in culprits if rank in case.job.ranks]
        known = all(rank in view.progress for rank in culprits)
        place = self._place(case, seen[0]) if len(seen) == 1 else ""
        where = f"; rank {seen[0]} is at {place}" if place else ""
        who = name_ranks(culprits or view.missing)
        inside = _still_inside(case, view)
        return Finding(
            code="collective.rank_missing",
            role="root" if culprits else "symptom",
            culprit_ranks=culprits,
            waiting_ranks=inside,
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{who} never entered {view.call}{where}; {name_ranks(inside, 'has', 'have')} "
            f"waited in it for {seconds(view.waited_s)}",
            evidence=tuple(self._evidence(case, view, culprits or view.missing)),
            confidence=0.95 if known and culprits else 0.6,
        )

    def _place(self, case: Case, rank: int) -> str:
        """Where the missing rank is, and what it is doing there."""
        place = case.where(rank)
        activity = activity_of(case.state, case.job.ranks[rank])
        if not place or activity is None or activity.waits_for_others:
            return place
        if case.job.is_frozen(case.job.ranks[rank]):
            return place
        return f"{place}, {activity.doing}" if activity.certain else place

    def _evidence(self, case: Case, view: GroupView, absent: Iterable[int]) -> Iterable[Evidence]:
        for rank in list(absent)[:8]:
            progress = view.progress.get(rank)
            if progress is not None:
                text = (
                    f"rank {rank} has entered {max(progress.enqueued, 0)} collectives of {view.title}; "
                    f"the others have entered {view.seq}"
                )
                yield Evidence("flight_recorder", text, rank)
            else:
                seen = rank in case.job.ranks
                why = "it runs without distwatch" if seen else "no process of this rank was seen"
                text = f"distwatch did not see rank {rank}'s calls ({why}); every observed member is in #{view.seq}"
                yield Evidence("flight_recorder", text, rank)
            yield case.place(rank)
        for rank in view.entered[:4]:
            if evidence := _call_evidence(case, view, rank):
                yield evidence


def _still_inside(case: Case, view: GroupView) -> tuple[int, ...]:
    """Who has entered and waits: who only receives in a broadcast is through before the others."""
    waits = case.job.waits_in(view.pg_name, view.members)
    inside = {wait.global_rank for wait in waits if wait.seq == view.seq}
    return tuple(rank for rank in view.entered if rank in inside) or view.entered


class Straggler:
    """collective.straggler: a rank entered, but only after torch's timeout had ended others."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if view.timed_out and not view.missing and (late := self._late(case, view)):
                yield self._finding(case, view, late)

    def _late(self, case: Case, view: GroupView) -> dict[int, float]:
        """Rank → seconds after the first timeout at which it entered. Hosts' clocks differ."""
        first = min(view.timed_out, key=lambda rank: case.job.ranks[rank].exception_ns or 0)
        gone = case.job.ranks[first]
        late: dict[int, float] = {}
        for rank in view.entered:
            process = case.job.ranks[rank]
            called = case.job.operation(rank, view.pg_name, view.seq)
            if called is None or process.host != gone.host or gone.exception_ns is None:
                continue
            if called.entered_ns > gone.exception_ns:
                late[rank] = (called.entered_ns - gone.exception_ns) / 1e9
        return late

    def _finding(self, case: Case, view: GroupView, late: dict[int, float]) -> Finding:
        worst = max(late.values())
        return Finding(
            code="collective.straggler",
            severity="crash",
            culprit_ranks=tuple(late),
            waiting_ranks=view.timed_out,
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{name_ranks(late)} entered {view.call} only {seconds(worst)} after the timeout of "
            f"{name_ranks(view.timed_out)}: late, not stuck",
            advice="Raise the timeout of init_process_group above the longest work between two collectives, or "
            f"make that work shorter on {agree(late, 'the late rank', 'the late ranks')}.",
            evidence=tuple(e for r in view.members[:8] if (e := _call_evidence(case, view, r))),
            confidence=0.9,
        )


class Late:
    """collective.straggler, as a warning: others wait for a busy rank, and the deadline has not passed."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            if not view.in_flight or view.overdue or not view.missing:
                continue
            wait = max(
                case.job.waits_in(view.pg_name, view.members),
                key=lambda w: w.waited_s / w.deadline_s,
            )
            late = [rank for rank in view.missing if not case.graph.is_waiting(rank)]
            if wait.waited_s < LATE_SHARE * wait.deadline_s or not late:
                continue
            if all(self._moves(case, rank) for rank in late):
                yield self._finding(case, view, wait, tuple(late))

    def _moves(self, case: Case, rank: int) -> bool:
        process = case.job.ranks.get(rank)
        if process is None or process.ended_ns is not None or case.job.is_frozen(process):
            return False
        stack = process.outside.stack
        if spins(process) is not None:
            return True
        since = stack.unchanged_since_ns if stack else None
        seen = process.outside.stack_ns
        # It moved between the last two looks.
        return since is not None and since == seen and case.job.age_s(process, since) < MOVES_S

    def _finding(self, case: Case, view: GroupView, wait: Wait, late: tuple[int, ...]) -> Finding:
        place = case.where(late[0]) if len(late) == 1 else ""
        left_s = wait.deadline_s - wait.waited_s
        return Finding(
            code="collective.straggler",
            severity="warning",
            culprit_ranks=late,
            waiting_ranks=view.entered,
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{name_ranks(late, 'is', 'are')} late for {view.call} and busy"
            f"{' at ' + place if place else ''}; {name_ranks(view.entered, 'has', 'have')} waited for "
            f"{seconds(wait.waited_s)}, and the deadline is in {seconds(left_s)}",
            evidence=(
                *(case.place(rank) for rank in late[:8]),
                *(one for rank in late[:8] for one in device_evidence(case.job, rank)),
            ),
            confidence=0.8,
        )


class OperationsDiffer:
    """op_mismatch, root_disagrees, shape_mismatch, dtype_mismatch: the same number, but different calls."""

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            calls = differing_calls(case, view)
            found = (self._compare(case, view, calls, aspect) for aspect in ASPECTS if calls)
            yield from islice(filter(None, found), 1)

    def _compare(
        self, case: Case, view: GroupView, calls: dict[int, Entry], aspect: str
    ) -> Finding | None:
        told = {
            rank: text
            for rank, call in calls.items()
            if (text := aspect_of(call, aspect, len(view.members)))
        }
        counts = Counter(told.values()).most_common(2)
        if len(counts) < 2:
            return None
        seq = next(iter(calls.values())).seq
        (first, most), (_, second) = counts
        usual = first if most > second else _habit(case, view, seq, aspect, told)
        odd = tuple(rank for rank, text in told.items() if text != usual)
        return Finding(
            code=ASPECTS[aspect],
            culprit_ranks=odd,
            waiting_ranks=tuple(rank for rank in view.members if rank not in odd),
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"the ranks of {view.title} disagree about collective #{seq}: {', '.join(name_by(told, ' ', ' '))}",
            evidence=(
                *(
                    Evidence(
                        call.source, f"rank {rank}: #{seq} is {_text(case, view, rank, call)}", rank
                    )
                    for rank, call in list(calls.items())[:16]
                ),
                *sequence_evidence(case, view, odd, seq),
            ),
            confidence=0.95 if most > second else _UNDECIDED if usual is None else _BY_HABIT,
        )


def _habit(case: Case, view: GroupView, seq: int, aspect: str, told: dict[int, str]) -> str | None:
    """Which of the things told other groups or ranks usually do; None where they do not decide."""
    elsewhere = _usual_elsewhere(case, view, seq, aspect)
    if elsewhere in told.values():
        return elsewhere
    normal = _usual_rank(case, view, seq, told)
    return None if normal is None else told[normal]


def _usual_rank(case: Case, view: GroupView, seq: int, told: dict[int, str]) -> int | None:
    """A rank of the side that called what the other ranks' calls show to be usual."""
    normal = usual_call(case.job, told, view.pg_name, seq)
    if normal is None and (odd := odd_rank(case.job, told)) is not None:
        return next(rank for rank, text in told.items() if text != told[odd])
    return normal


def _usual_elsewhere(case: Case, view: GroupView, seq: int, aspect: str) -> str | None:
    """What all groups of the same description passed to the call of that number, where they agree."""
    if view.pg_desc in ("", "undefined"):
        return None
    told = {
        text
        for other in case.groups
        if other.pg_desc == view.pg_desc and other is not view
        for rank, call in _at(case.job.recorded, other, seq).items()
        if (text := aspect_of(of_recorder(case.job.ranks[rank], call), aspect, len(other.members)))
    }
    return told.pop() if len(told) == 1 else None


def differing_calls(case: Case, view: GroupView) -> dict[int, Entry]:
    """Each member's call in one collective, where the calls differ; else nothing.

    All calls are from one source. The recorder also has what C++ called (DDP); the ring also
    survives an abort.
    """
    stuck = view.in_flight and view.waited_s >= SETTLED_S
    if not stuck and not case.deaths.own and not case.deaths.victims:
        return {}
    for seq in [view.seq] if view.in_flight else _last_seqs(case, view):
        called = _at(case.job.operation, view, seq)
        recorded = _at(case.job.recorded, view, seq)
        if calls := (
            _differing(case, called, of_ring, lambda c: (c.op, c.numel, c.dtype, c.peer))
            or _differing(
                case, recorded, of_recorder,
                lambda c: (c.op, c.input_sizes, c.output_sizes, c.input_dtypes),
            )
        ):  # fmt: skip
            return calls
    return {}


def _at(
    find: Callable[[int, str, int], _Call | None], view: GroupView, seq: int
) -> dict[int, _Call]:
    return {rank: call for rank in view.members if (call := find(rank, view.pg_name, seq))}


def _differing(
    case: Case,
    calls: dict[int, _Call],
    read: Callable[[Process, _Call], Entry],
    key: Callable[[_Call], object],
) -> dict[int, Entry]:
    # Most often all calls are the same, and there may be very many.
    if len({key(call) for call in calls.values()}) < 2:
        return {}
    entries = {rank: read(case.job.ranks[rank], call) for rank, call in calls.items()}
    kinds = {(entry.op, entry.numel, entry.dtype, entry.root) for entry in entries.values()}
    return entries if len(kinds) > 1 else {}


def calls_differ(case: Case, view: GroupView) -> bool:
    """Whether the members are in different calls, or in calls that do not match."""
    calls = differing_calls(case, view).values()
    return any(
        len(
            {
                value
                for call in calls
                if (value := aspect_of(call, aspect, len(view.members))) is not None
            }
        )
        > 1
        for aspect in ASPECTS
    )


def aspect_of(call: Entry, name: str, members: int) -> str | None:
    """What a rank `called` or `passed`; None where this operation may differ in it, or where it was not seen."""
    if name == "op":
        return f"called {call.op}"
    if name == "root":
        return f"named rank {call.root} as {_ROOT_WORDS[call.op]}" if call.root >= 0 else None
    if name == "dtype":
        return f"passed {call.dtype}" if call.dtype and call.op in _SAME_DTYPE else None
    # Parts of different sizes are allowed to `all_gather`; then no rank has one part for each member.
    must_agree = call.op in _SAME_SHAPE or (members > 1 and call.parts == members)
    return f"passed {call.numel} elements" if call.numel >= 0 and must_agree else None


def _text(case: Case, view: GroupView, rank: int, call: Entry) -> str:
    size = f" of {call.numel} elements" if call.numel >= 0 else ""
    dtype = f" {call.dtype}" if call.dtype else ""
    waits = any((w.pg_name, w.seq) == (view.pg_name, call.seq) for w in case.job.waits_for(rank))
    where = case.where(rank) if waits else ""
    at = case.at(call.site, " at") or (f" at {where}" if where else "")
    root = f" with {_ROOT_WORDS[call.op]} {call.root}" if call.root >= 0 else ""
    return f"{call.op}{size}{dtype}{root}{at}"


def _last_seqs(case: Case, view: GroupView) -> list[int]:
    """The newest numbers of a group whose ranks died: a mismatch can end in an abort."""
    newest = [
        operation.seq
        for rank in view.members
        if (process := case.job.ranks.get(rank)) is not None
        for operation in process.outside.operations[-4:]
        if operation.pg_name == view.pg_name and operation.seq >= 0
    ]
    return sorted(set(newest), reverse=True)[:2]


def _call_evidence(case: Case, view: GroupView, rank: int) -> Evidence | None:
    call = entry_at(case, view, rank, view.seq)
    if call is None:
        return None
    text = _text(case, view, rank, call) if call.source == "operations" else str(call)
    return Evidence(call.source, f"rank {rank} waits in #{view.seq}: {text}", rank)
