"""Findings about ranks that run without distwatch, from their stacks alone."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    StackCall,
    call_by_stack,
    calls_of_threads,
    is_known_asleep,
    is_seen_from_outside,
    settled_s,
    waited_s,
)
from distwatch.diagnosis.facts.torch_frames import COLLECTIVE_FRAMES, torch_frame
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_by, name_ranks, ranks_by

_ONLY_STACKS = (
    "distwatch sees only stacks here: run the job with `distwatch run -- …` to see sequence numbers, groups "
    "and deadlines."
)

_QUIET = (
    "every connection between these ranks is open, with nothing unacknowledged and nothing unread: "
    "no data is on its way"
)


class CallsByStack:
    """Of a job without distwatch: some ranks are in a call and others are not, or all are in calls that differ."""

    def find(self, case: Case) -> Iterable[Finding]:
        ranks = case.job.ranks
        if not is_seen_from_outside(case.job) or case.waiting:
            return
        if not all(process.main_frames for process in ranks.values()):
            return
        calls = {r: call for r, p in ranks.items() if (call := call_by_stack(case.job, p))}
        # Who waits for the holder of a lock, or for what another rank would send, is held up itself.
        outside = [rank for rank in ranks if rank not in calls and not case.graph.is_waiting(rank)]
        # A rank that was woken since, or has left its function, still moves.
        lasted = [waited_s(ranks[rank]) for rank in calls]
        lasted += [settled_s(ranks[rank]) for rank in outside]
        if not calls or min(lasted) < STILL_S:
            return
        lasted_s = min(lasted)
        creating = {r: call for r, call in calls.items() if call.kind == "creation"}
        if outside and len(creating) < len(calls):
            yield self._missing(case, calls, outside, lasted_s)
        elif creating and len(creating) < len(ranks):
            yield self._not_created(case, creating, lasted_s)
        elif creating:
            yield from self._created_apart(case, creating)
        elif not case.job.device.queues:
            # What runs on devices does not wait where its rank's CPU is.
            yield from self._unlike(case, calls, lasted_s)

    def _missing(
        self, case: Case, calls: dict[int, StackCall], outside: list[int], lasted_s: float
    ) -> Finding:
        place = case.where(outside[0]) if len(outside) == 1 else ""
        operations = ", ".join(sorted({str(call) for call in calls.values()}))
        return Finding(
            code="collective.rank_missing",
            culprit_ranks=tuple(outside),
            waiting_ranks=tuple(calls),
            summary=f"{name_ranks(outside, 'is', 'are')} elsewhere{_doing(case, outside, place)} while "
            f"{name_ranks(calls, 'is', 'are')} in {operations}; nothing has moved for {seconds(lasted_s)}",
            advice=_ONLY_STACKS,
            evidence=tuple(case.place(rank) for rank in [*outside, *calls][:8]),
            confidence=0.5 if lasted_s == STILL_S else 0.6,  # one look only
        )

    def _not_created(self, case: Case, creating: dict[int, StackCall], lasted_s: float) -> Finding:
        """Every rank of the world has to call new_group, member or not."""
        absent = [rank for rank in case.job.ranks if rank not in creating]
        title = _group_title(next(iter(creating.values())))
        return Finding(
            code="group.call_missing",
            culprit_ranks=tuple(absent),
            waiting_ranks=tuple(creating),
            summary=f"{name_ranks(creating, 'waits', 'wait')} in {title} and {name_ranks(absent)} "
            f"{agree(absent, 'is', 'are')} not in it; nothing has moved for {seconds(lasted_s)}",
            evidence=tuple(case.place(rank) for rank in [*absent, *creating][:8]),
            confidence=0.6,
        )

    def _created_apart(self, case: Case, creating: dict[int, StackCall]) -> Iterable[Finding]:
        """Members meet under the group's name, which is counted, or made of its members."""
        names = {r: name for r, c in creating.items() if (name := c.arguments.get("group_name"))}
        if len(names) < len(creating) or len(set(names.values())) < 2:
            return
        sides = sorted(ranks_by(names).values(), key=len)
        odd = sides[0] if len(sides[0]) < len(sides[-1]) else list(names)
        yield Finding(
            code="group.counter_skew",
            culprit_ranks=tuple(sorted(odd)),
            waiting_ranks=tuple(rank for rank in names if rank not in odd),
            summary="the ranks create one group under different names: "
            f"{'; '.join(name_by(names, ' names it ', ' name it '))}",
            evidence=tuple(case.place(rank) for rank in list(names)[:8]),
            confidence=0.7,
        )

    def _unlike(
        self, case: Case, calls: dict[int, StackCall], lasted_s: float
    ) -> Iterable[Finding]:
        """The smaller side is odd; where the sides are equal, nobody can be told from the others."""
        several = {r: case.job.ranks[r] for r in calls if calls_of_threads(case.job.ranks[r])}
        if any(case.job.in_collective_by_stack(process) for process in several.values()):
            yield self._concurrent(case, calls, several)
            return
        if any(call.peer is not None for call in calls.values()):
            return  # sends and recvs whose peers are known are judged by the graph
        told = {rank: str(call) for rank, call in calls.items()}
        if len(set(told.values())) < 2 and set(told.values()) != {"recv"}:
            yield from self._alike(case, calls, lasted_s)
            return
        kinds = {call.kind for call in calls.values()}
        sides = sorted(ranks_by(told).values(), key=len)
        # What an asynchronous call waits for is not known: who waits in it need not be the odd one.
        decided = len(sides) > 1 and len(sides[0]) < len(sides[-1]) and "work" not in kinds
        odd = sorted(sides[0] if decided else told)
        code = "collective.op_mismatch"
        if kinds == {"p2p"}:
            code = "p2p.cycle"
        elif kinds & {"p2p", "work"}:
            code, odd = "p2p.unmatched", odd if "work" not in kinds else []
        elif len({call.name for call in calls.values()}) == 1:
            code = "collective.root_disagrees"
        yield Finding(
            code=code,
            culprit_ranks=tuple(odd),
            waiting_ranks=tuple(rank for rank in calls if rank not in odd),
            summary="the ranks wait for each other in calls that do not fit: "
            f"{'; '.join(name_by(told, ' is in ', ' are in '))}; nothing has moved for {seconds(lasted_s)}",
            evidence=(*_evidence(calls), *(case.place(rank) for rank in list(calls)[:8])),
            confidence=0.6 if decided else 0.5,
        )

    def _alike(self, case: Case, calls: dict[int, StackCall], lasted_s: float) -> Iterable[Finding]:
        """All are in one function, and none has been woken: with groups of their own, these may differ."""
        asleep = all(is_known_asleep(case.job.ranks[rank]) for rank in calls)
        given = all(call.arguments.get("group") == "given" for call in calls.values())
        if len(calls) < 2 or not asleep or not given:
            return
        # What is neither under way nor unread was never sent: then it is not the network.
        quiet = case.job.links.are_idle(calls.keys()) and not _may_bypass_tcp(case)
        culprits = tuple(calls) if quiet and len(calls) == 2 else ()
        why = "groups whose members cannot be seen from outside"
        yield Finding(
            code="collective.op_mismatch",
            culprit_ranks=culprits,
            waiting_ranks=() if culprits else tuple(calls),
            summary=f"{name_ranks(calls, 'is', 'are')} in {next(iter(calls.values()))} of {why}"
            f"{', and neither has sent anything that the other has not got' if culprits else ''}; "
            f"nothing has moved for {seconds(lasted_s)}",
            advice="Compare in which order each rank calls its groups: with two groups in opposite orders, all wait."
            + (
                ""
                if quiet
                else " If the orders are the same, look at the network between the ranks."
            ),
            evidence=(
                *_evidence(calls),
                *((Evidence("proc", _QUIET),) if quiet else ()),
                *(case.place(rank) for rank in list(calls)[:8]),
            ),
            confidence=0.6 if quiet else 0.4,
        )

    def _concurrent(
        self, case: Case, calls: dict[int, StackCall], several: dict[int, Process]
    ) -> Finding:
        """Two threads of one rank in collectives: their order is not the same on every rank."""
        told = {
            rank: " and ".join(
                filter(None, (case.job.in_collective_by_stack(p), *calls_of_threads(p)))
            )
            for rank, p in several.items()
        }
        return Finding(
            code="collective.concurrent_threads",
            culprit_ranks=tuple(sorted(several)),
            waiting_ranks=tuple(rank for rank in calls if rank not in several),
            summary="threads of one rank are in collectives at the same time: "
            f"{'; '.join(name_by(told, ' is in ', ' are in '))}",
            evidence=tuple(
                Evidence("stack", f"rank {rank}: thread {text}", rank)
                for rank, process in list(several.items())[:4]
                for text in _thread_places(process)
            ),
            confidence=0.6,
        )


def _may_bypass_tcp(case: Case) -> bool:
    """Whether the ranks' data may go through GPUs or RDMA ports, of which their TCP connections tell nothing."""
    hosts = {process.host for process in case.job.ranks.values()}
    seen = [host for name, host in case.state.hosts.items() if name in hosts]
    ports = any(host.ports.ports for host in seen if host.ports)
    return ports or any(host.devices.devices for host in seen if host.devices)


def _thread_places(process: Process) -> Iterable[str]:
    """Where each thread is that is in a collective."""
    stack = process.outside.stack
    for thread in stack.threads if stack is not None else ():
        if (call := torch_frame(thread.frames, COLLECTIVE_FRAMES)) is not None:
            frame = user_frame(thread.frames) or call
            place = short_site(frame.file, frame.line, frame.function)
            yield f"{thread.name or thread.os_thread_id} is in {call.function}, at {place}"


def _evidence(calls: dict[int, StackCall]) -> Iterable[Evidence]:
    for rank, call in list(calls.items())[:8]:
        if call.arguments:
            said = ", ".join(f"{name}={value}" for name, value in call.arguments.items())
            yield Evidence("stack", f"rank {rank}: {call.name}({said})", rank)


def _group_title(call: StackCall) -> str:
    name, members = call.arguments.get("group_name", ""), call.arguments.get("ranks", "")
    number = f" #{name}" if name.isdigit() else ""
    return f"{call.name}{number}{f' ({members})' if members else ''}"


def _doing(case: Case, outside: list[int], place: str) -> str:
    if not place:
        return ""
    activity = activity_of(case.state, case.job.ranks[outside[0]])
    return f" (at {place}{', ' + activity.doing if activity and activity.certain else ''})"
