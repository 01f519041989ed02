"""Collectives that run on devices: whose CPU is not there, whose device is behind, where nobody is missing."""

from __future__ import annotations

from collections.abc import Iterable, Set

import msgspec

from distwatch.diagnosis.checks.collectives.entries import calls_differ
from distwatch.diagnosis.checks.collectives.lone_calls import extra_call, lone_call
from distwatch.diagnosis.checks.processes.debugging import debugged_by_intent
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.device_faults import device_evidence
from distwatch.diagnosis.facts.device_queues import Meeting
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait
from distwatch.state.finding import Evidence, Finding
from distwatch.state.hardware_events import RAS
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks

_SHOWN = 8
_GROUPS_SHOWN = 3


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """What the heads of the device queues show, as far as it has lasted past its deadline."""

    meetings: list[Meeting]
    peers: list[PeerWait]
    absent: frozenset[int]
    """Seen ranks whose CPU has not enqueued what others wait for, and whose device waits for nobody."""
    unseen: frozenset[int]
    """Ranks without any record that others wait for, where no seen rank explains the wait."""
    behind: frozenset[int]
    met: list[PeerWait]
    """Sends and recvs that both sides have come to."""

    @property
    def roots(self) -> frozenset[int]:
        """The seen ranks at which waits end."""
        return self.absent | self.behind


class DeviceQueues:
    """One finding for all queues: they are stuck behind the same few ranks."""

    def find(self, case: Case) -> Iterable[Finding]:
        if not case.job.device.queues:
            return
        stuck = stuck_of(case)
        if stuck.behind:
            yield _device_behind(case, stuck)
        if stuck.absent or stuck.unseen:
            odd = extra_call(case, stuck.meetings, stuck.absent) if not stuck.unseen else None
            odd = odd or (None if stuck.roots else lone_call(case, stuck.meetings, stuck.unseen))
            yield odd or _not_enqueued(case, stuck)
        full = _full(case, stuck.meetings)
        shared = None if stuck.roots or stuck.unseen else _in_two_calls(case, full, stuck.meetings)
        if shared:
            yield shared
        elif (full or stuck.met) and not (stuck.behind or stuck.absent or stuck.unseen):
            yield _nobody_missing(case, full, stuck.met)


def stuck_of(case: Case) -> Stuck:
    """The ranks at which the chains of waits end."""
    job = case.job
    meetings = [m for m in job.device.meetings if _overdue_s(case, m) is not None]
    peers = [
        wait
        for wait in (*job.peer_waits.values(), *job.batch_waits)
        if wait.on_device and job.peer_overdue(wait)
    ]
    behind = {
        rank for m in meetings if len(m.at) <= len(m.passed) or m.unstarted for rank in m.behind
    }
    behind |= {
        wait.peer_rank
        for wait in peers
        if wait.unstarted and not case.graph.is_waiting(wait.peer_rank)
    }
    behind |= {rank for rank in job.device.lagging if case.graph.is_overdue(rank)}
    met = [wait for wait in job.met_peers if job.peer_overdue(wait)]
    seen = {rank for m in meetings for rank in m.absent}
    seen |= {w.peer_rank for w in peers if w.peer_rank in job.ranks and not w.enqueued}
    absent = frozenset(
        rank
        for rank in seen - job.device.behind - behind
        # Where its device is in a call that all have come to, that call is what does not end.
        if job.device.head(rank) is None
        and not case.graph.is_waiting(rank)
        and not debugged_by_intent(case, rank)
    )
    roots = absent | behind
    differ = any(calls_differ(case, _view(case, meeting)) for meeting in meetings)
    explained = roots or met or differ or _full(case, meetings)
    return Stuck(
        meetings=meetings,
        peers=peers,
        absent=absent,
        unseen=_unseen(case, meetings, peers, roots) if roots or not explained else frozenset(),
        behind=frozenset(behind),
        met=met,
    )


def _unseen(
    case: Case, meetings: list[Meeting], peers: list[PeerWait], roots: Set[int]
) -> frozenset[int]:
    """By elimination: the ranks of which nothing is known, where all others of a call are there."""
    suspects = [
        frozenset(m.unseen) for m in meetings if m.unseen and not (m.absent or m.queued or m.passed)
    ]
    suspects += [frozenset((w.peer_rank,)) for w in peers if w.peer_rank not in case.job.ranks]
    excused = _linked(case, roots)
    suspects = [one - excused for one in suspects if one - excused]
    certain = frozenset(rank for one in suspects if len(one) == 1 for rank in one)
    # One rank that is certainly missing explains each call that it is missing from.
    return certain.union(*(one for one in suspects if not one & certain))


def _linked(case: Case, roots: Set[int]) -> set[int]:
    """Whoever shares a group with a rank that is known to be at fault, or with one of these: it may wait."""
    found, before = set(roots), -1
    while before < len(found):
        before = len(found)
        for view in case.groups:
            if not found.isdisjoint(view.members):
                found.update(view.members)
    return found


def _overdue_s(case: Case, meeting: Meeting) -> float | None:
    """How long its ranks have waited; None where none has waited past its deadline."""
    waits = [
        wait
        for wait in case.job.waits_in(meeting.pg_name, meeting.members)
        if wait.seq == meeting.seq
    ]
    overdue = any(wait.overdue for wait in waits)
    return max(wait.waited_s for wait in waits) if overdue else None


def _view(case: Case, meeting: Meeting) -> GroupView:
    """The group as others see it, at this call."""
    view = case.view(meeting.pg_name, meeting.members)
    return msgspec.structs.replace(view, seq=meeting.seq, op=operation_name(meeting.op) or view.op)


def _device_behind(case: Case, stuck: Stuck) -> Finding:
    shown = [m for m in stuck.meetings if stuck.behind & set(m.behind)]
    if not shown:
        return _peer_behind(case, stuck)
    first = max(shown, key=lambda m: (len(m.passed), len(m.members)))
    view = _view(case, first)
    at = [rank for rank in first.behind if rank in stuck.behind]
    if first.passed:
        seen = f"{name_ranks(first.passed, 'has', 'have')}"
    else:
        others = [rank for rank in first.at if rank not in at]
        seen = f"{name_ranks(others, 'has', 'have')} started its kernel"
    more = stuck.behind - set(at)
    also = f"; {name_ranks(more, 'is', 'are')} behind in the same way" if more else ""
    return Finding(
        code="collective.device_behind",
        culprit_ranks=tuple(sorted(stuck.behind)),
        waiting_ranks=tuple(sorted(case.graph.behind(stuck.behind) - stuck.behind)),
        pg_name=view.pg_name,
        pg_desc=view.pg_desc or None,
        summary=f"{name_ranks(at, 'has', 'have')} enqueued {view.call}, and "
        f"{agree(at, 'its device has', 'their devices have')} not completed it: {seen}{also}",
        evidence=tuple(_behind_evidence(case, shown, stuck)),
        confidence=0.9,
    )


def _peer_behind(case: Case, stuck: Stuck) -> Finding:
    rank = min(stuck.behind)
    waits = [w for w in stuck.peers if w.unstarted and w.peer_rank == rank]
    if waits:
        first = max(waits, key=case.job.peer_waited_s)
        pg_name, call = first.pg_name, f"the match of rank {first.global_rank}'s {first}"
        seen = f"not started it; the kernel of rank {first.global_rank} has run for"
        waited_s = case.job.peer_waited_s(first)
    else:
        work = case.job.device.queues[rank].pending[0]
        pg_name, call = work.pg_name, f"{work.direction} #{work.seq} with rank {work.peer}"
        if rank in case.job.device.unstarted_peers:
            seen = "not started it, where a call at the head of a queue starts at once; others have waited for"
        else:
            seen = f"not completed it; that of rank {work.peer} has, and rank {work.peer} has waited for"
        waited_s = max((edge.waited_s for edge in case.graph.awaited_by(rank)), default=0.0)
    also = stuck.behind - {rank}
    more = f"; {name_ranks(also, 'is', 'are')} behind in the same way" if also else ""
    return Finding(
        code="collective.device_behind",
        culprit_ranks=tuple(sorted(stuck.behind)),
        waiting_ranks=tuple(sorted(case.graph.behind(stuck.behind) - stuck.behind)),
        pg_name=pg_name,
        pg_desc=case.job.ranks[rank].groups[pg_name].pg_desc or None,
        summary=f"rank {rank} has enqueued {call}, and its device has {seen} {seconds(waited_s)}{more}",
        evidence=tuple(case.place(rank) for rank in sorted(stuck.behind)[:_SHOWN]),
        confidence=0.9,
    )


def _behind_evidence(case: Case, shown: list[Meeting], stuck: Stuck) -> Iterable[Evidence]:
    told: set[int] = set()
    for meeting in shown[:_SHOWN]:
        view = _view(case, meeting)
        for rank in meeting.behind:
            if rank in told or rank not in stuck.behind:
                continue
            told.add(rank)
            others = meeting.passed or [r for r in meeting.at if r not in meeting.unstarted]
            did = "completed" if meeting.passed else "started"
            text = (
                f"rank {rank}: {view.call} is the first call that its device has not completed; "
                f"{name_ranks(others, 'has', 'have')} {did} it"
            )
            yield Evidence("flight_recorder", text, rank)
            yield from device_evidence(case.job, rank)
            yield case.place(rank)


def _not_enqueued(case: Case, stuck: Stuck) -> Finding:
    culprits = stuck.absent | stuck.unseen
    meetings = [m for m in stuck.meetings if culprits & {*m.absent, *m.unseen}]
    waiting = tuple(sorted(case.graph.behind(culprits) - culprits))
    whom = name_ranks(culprits)
    if meetings:
        first = max(meetings, key=lambda m: (len(culprits & {*m.absent, *m.unseen}), len(m.at)))
        view = _view(case, first)
        call, waits_in, waited_s = view.call, first.at, _overdue_s(case, first) or 0.0
        pg_name, pg_desc, code = view.pg_name, view.pg_desc, "collective.rank_missing"
        what = f"{whom} never entered {call}" if stuck.absent else f"{call} waits only for {whom}"
    else:
        wait = max((w for w in stuck.peers if w.peer_rank in culprits), key=case.job.peer_waited_s)
        waits_in, waited_s = (wait.global_rank,), case.job.peer_waited_s(wait)
        pg_name, pg_desc, code = wait.pg_name, wait.pg_desc, "p2p.unmatched"
        other = "recv" if wait.op == "send" else "send"
        what = (
            f"{whom} {agree(culprits, 'has', 'have')} no matching {other} for rank "
            f"{wait.global_rank}'s {wait}"
        )
    certain = not stuck.unseen
    counted = any(_is_counted_by_ras(case, rank) for rank in culprits)
    doubt = "" if certain else f"; {_no_record(stuck.unseen)}"
    return Finding(
        code=code,
        culprit_ranks=tuple(sorted(culprits)),
        waiting_ranks=waiting,
        pg_name=pg_name,
        pg_desc=pg_desc or None,
        summary=f"{what}; {name_ranks(waits_in, 'has', 'have')} waited in it for {seconds(waited_s)}{doubt}",
        evidence=tuple(_missing_evidence(case, stuck, meetings)),
        confidence=0.6 if not certain else 0.7 if counted else 0.95,
    )


def _is_counted_by_ras(case: Case, rank: int) -> bool:
    """Whether its calls are known from NCCL's RAS alone."""
    process = case.job.ranks.get(rank)
    pulse = process.outside.pulse if process is not None else None
    return pulse is not None and pulse.recorder == RAS


def _no_record(ranks: Iterable[int]) -> str:
    return f"there is no record of the calls of {name_ranks(ranks)}"


def _missing_evidence(case: Case, stuck: Stuck, meetings: list[Meeting]) -> Iterable[Evidence]:
    for rank in sorted(stuck.absent | stuck.unseen)[:_SHOWN]:
        for meeting in meetings[:_GROUPS_SHOWN]:
            if rank not in (*meeting.absent, *meeting.unseen):
                continue
            view = _view(case, meeting)
            progress = view.progress.get(rank)
            by_ras = f" by the count of {RAS}" if _is_counted_by_ras(case, rank) else ""
            enqueued = f"it has enqueued #{progress.enqueued}{by_ras}" if progress else ""
            last = enqueued or "no dump of it was found"
            who = name_ranks(meeting.at, "waits", "wait")
            text = f"rank {rank}: {view.call} is not among its calls ({last}); {who} in it"
            yield Evidence("flight_recorder", text, rank)
        for wait in [w for w in stuck.peers if w.peer_rank == rank][:_GROUPS_SHOWN]:
            text = f"rank {wait.global_rank} waits in {wait}, which rank {rank} has not matched"
            yield Evidence("flight_recorder", text, rank)
        yield case.place(rank)


def _full(case: Case, meetings: list[Meeting]) -> list[Meeting]:
    """The calls that all members have come to, and that do not complete."""
    full = [m for m in meetings if len(m.members) > 1 and not m.awaited and not m.passed]
    return [m for m in full if not calls_differ(case, _view(case, m))]


def _in_two_calls(case: Case, full: list[Meeting], meetings: list[Meeting]) -> Finding | None:
    """The one rank of two calls on streams of their own, to which all have come and of which none completes."""
    device = case.job.device
    for first in full:
        for then in meetings:
            rest = set(then.members) - set(then.at)
            if rest != set(then.queued) or not rest <= set(first.at):
                continue
            both = set(first.members) & set(then.members)
            titles = [device.title_of(m.at[0], m.pg_name) for m in (first, then)]
            if len(both) == 1 and device.streams.are_apart(titles[0], titles[1]):
                return _between(case, both.pop(), first, then)
    return None


def _between(case: Case, rank: int, first: Meeting, then: Meeting) -> Finding:
    view = _view(case, first)
    waited_s = max(_overdue_s(case, meeting) or 0.0 for meeting in (first, then))
    return Finding(
        code="collective.device_behind",
        culprit_ranks=(rank,),
        waiting_ranks=tuple(r for r in sorted(case.job.device.queues) if r != rank),
        pg_name=view.pg_name,
        pg_desc=view.pg_desc or None,
        summary=f"every member has enqueued {view.call} and {_view(case, then).call}, which run on streams of "
        f"their own, and neither has completed for {seconds(waited_s)}: only the device of rank {rank} is in both",
        evidence=(case.place(rank),),
        confidence=0.75,
    )


def _nobody_missing(case: Case, meetings: list[Meeting], met: list[PeerWait]) -> Finding:
    """It names the calls and no rank: which device or link is at fault cannot be seen."""
    views = [_view(case, meeting) for meeting in meetings]
    calls = [view.call for view in views]
    calls += [f"rank {w.global_rank}'s {w}" for w in met if w.global_rank < w.peer_rank]
    listed = ", ".join(calls[:_GROUPS_SHOWN])
    more = f" and {len(calls) - _GROUPS_SHOWN} more" if len(calls) > _GROUPS_SHOWN else ""
    ranks = sorted({r for view in views for r in view.members} | {w.global_rank for w in met})
    waited = [_overdue_s(case, meeting) or 0.0 for meeting in meetings]
    waited += [case.job.peer_waited_s(wait) for wait in met]
    return Finding(
        code="collective.device_behind",
        waiting_ranks=tuple(ranks),
        pg_name=views[0].pg_name if views else met[0].pg_name,
        pg_desc=(views[0].pg_desc if views else met[0].pg_desc) or None,
        summary=f"every member has enqueued {listed}{more}, and no device has completed "
        f"{agree(calls, 'it', 'them')} for {seconds(max(waited))}: a device or a link is stuck between "
        f"{name_ranks(ranks)}; these records do not show which",
        advice="Look at these ranks' devices and links (`nvidia-smi`, `dmesg`, Xid errors, `ibstat`). With "
        "TORCH_NCCL_ENABLE_TIMING=1 the records also show whose kernel has started.",
        evidence=tuple(case.place(rank) for rank in ranks[:_SHOWN]),
        confidence=0.3,
    )
