"""Calls whose other side left no record: of those that are known, one rank's is not what the ranks like it called."""

from __future__ import annotations

from collections.abc import Iterable, Set

from distwatch.diagnosis.checks.collectives.entries import ASPECTS, aspect_of
from distwatch.diagnosis.facts.call_order import odd_rank
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.device_queues import Meeting
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.sequences import entry_at
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

_SURE = 0.75
"""The calls that would prove it were not recorded."""


def lone_call(case: Case, meetings: Iterable[Meeting], unseen: Set[int]) -> Finding | None:
    """Where ranks wait for ranks without a record, the seen one that is at fault; None where none is known to be."""
    beside = [m for m in meetings if unseen & set(m.unseen)]
    for meeting in beside:
        if len(meeting.at) == 1 and (found := _other_call(case, meeting)):
            return found
    seen = {rank for meeting in beside for rank in meeting.at}
    odd = odd_rank(case.job, seen, certain=True)
    if odd is None:
        return None
    meeting = next(m for m in beside if odd in m.at)
    view = case.view(meeting.pg_name, meeting.members)
    return _finding(
        case,
        "collective.count_uneven",
        odd,
        view,
        f"of all ranks, only rank {odd} came to collective #{meeting.seq} of {view.title} after another "
        "number of calls in its other groups",
        meeting,
    )


def extra_call(case: Case, meetings: list[Meeting], absent: Set[int]) -> Finding | None:
    """The one rank of a job that waits, where no other has a call open and none has made a call of that number."""
    device = case.job.device
    if len(meetings) != 1 or len(meetings[0].at) != 1 or len(device.queues) < 3:
        return None
    (meeting,) = meetings
    (rank,) = meeting.at
    others = set(meeting.absent)
    title = device.title_of(rank, meeting.pg_name)
    reached = {
        device.done(other, name)
        for other in device.queues.keys() - {rank}
        for name in device.groups_for(other, title)
    }
    idle = all(device.head(other) is None for other in device.queues if other != rank)
    if not others or others != absent or not idle or reached != {meeting.seq - 1}:
        return None
    view = case.view(meeting.pg_name, meeting.members)
    return _finding(
        case,
        "collective.count_uneven",
        rank,
        view,
        f"rank {rank} alone has enqueued collective #{meeting.seq} of {view.title}: {name_ranks(others)} have all "
        f"completed #{meeting.seq - 1} and enqueued nothing since, as if it had called once more than they did",
        meeting,
    )


def _other_call(case: Case, meeting: Meeting) -> Finding | None:
    """What a single rank called where all that share a group with it called something else in their groups."""
    (rank,) = meeting.at
    view = case.view(meeting.pg_name, meeting.members)
    mine = entry_at(case, view, rank, meeting.seq)
    alike = list(_alike(case, view, rank))
    theirs = [
        (other.members, call)
        for other in alike
        for member in other.members
        if (call := entry_at(case, other, member, meeting.seq))
    ]
    for aspect in ("op", "shape") if mine and theirs else ():
        usual = {aspect_of(call, aspect, len(members)) for members, call in theirs}
        own = aspect_of(mine, aspect, len(meeting.members)) if mine else None
        if len(usual) != 1 or None in usual or own is None:
            return None
        if own not in usual:
            return _finding(
                case,
                ASPECTS[aspect],
                rank,
                view,
                f"rank {rank} {own} as collective #{meeting.seq} of {view.title}, and in the other groups of "
                f"{view.pg_desc} all ranks {usual.pop()}",
                meeting,
            )
    return None


def _alike(case: Case, view: GroupView, rank: int) -> Iterable[GroupView]:
    """Other groups of the same description, which ranks are in that share a group with this one.

    A pipeline's stages do not count: their calls may differ.
    """
    process = case.job.ranks[rank]
    piped = {
        e.pg_name for e in (process.collectives.entries if process.collectives else ()) if e.is_p2p
    }
    partners = {
        member
        for name, group in process.groups.items()
        if name not in piped and group.pg_desc != "default_pg"
        for member in group.members
    }
    if view.pg_desc in ("", "undefined"):
        return ()
    return (
        other
        for other in case.groups
        if other.pg_desc == view.pg_desc
        and rank not in other.members
        and not partners.isdisjoint(other.members)
    )


def _finding(
    case: Case, code: str, rank: int, view: GroupView, what: str, meeting: Meeting
) -> Finding:
    waited = [w.waited_s for w in case.job.waits_in(view.pg_name, view.members)]
    lost = (
        f", and there is no record of the calls of {name_ranks(meeting.unseen)}"
        if meeting.unseen
        else ""
    )
    return Finding(
        code=code,
        culprit_ranks=(rank,),
        waiting_ranks=tuple(r for r in sorted(case.job.device.queues) if r != rank),
        pg_name=view.pg_name,
        pg_desc=view.pg_desc or None,
        summary=f"{what}; it has waited in it for {seconds(max(waited, default=0.0))}{lost}",
        evidence=(
            Evidence(
                "flight_recorder",
                f"rank {rank} waits in {meeting.op} #{meeting.seq}{lost}",
                rank,
            ),
            case.place(rank),
        ),
        confidence=_SURE,
    )
