"""rendezvous.* of process groups beside the default world: weight-sync groups and bare stores.

They number their members themselves, and may join processes of several worlds of a run. A rank is
called missing only where that follows from what was seen: an earlier group of the same name had it,
or no other process is left.
"""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.extra_groups import (
    Meeting,
    absent_processes,
    at_other_addresses,
    everybody,
    meeting_of,
    open_meetings,
)
from distwatch.diagnosis.facts.world_names import named, ranks_here
from distwatch.state.events import ExtraGroupJoined
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process, Step
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.steps import GROUP

_LISTED = 8


class ExtraGroupsIncomplete:
    """Looks at every rendezvous in which some process waits beyond its deadline."""

    def find(self, case: Case) -> Iterable[Finding]:
        if not any(process.extra_groups for process in case.state.processes.values()):
            return
        ours = {process.key for process in case.job.processes}
        told: set[tuple[str, ...]] = set()
        for process in everybody(case.state):
            for one, step in open_meetings(process):
                if case.job.age_s(process, step.started_ns) <= _limit_s(case, process, step):
                    continue
                meeting = meeting_of(case.state, process, one)
                key = (meeting.title, *sorted(p.key for p, _ in meeting.joined))
                if key in told:
                    continue
                told.add(key)
                finding, owners = self._judge(case, meeting)
                # Of several worlds, the one with the culprits reports it; else the one that waits.
                if finding is not None and owners[:1] and owners[0].key in ours:
                    yield finding

    def _judge(self, case: Case, meeting: Meeting) -> tuple[Finding | None, list[Process]]:
        waiting = [p for p, one in meeting.joined if any(o is one for o, _ in open_meetings(p))]
        twice = [
            n for n in meeting.come if sum(one.group_rank == n for _, one in meeting.joined) > 1
        ]
        beyond = [n for n in meeting.come if n >= meeting.size]
        sizes = {one.size for _, one in meeting.joined if one.size}
        if len(sizes) > 1:
            odd = [p for p, one in meeting.joined if one.size != meeting.size]
            told = " and ".join(map(str, sorted(sizes)))
            what = f"{meeting.title} has {told} members, depending on which member you ask"
            return self._finding(
                case, meeting, "rendezvous.world_size_disagrees", odd, waiting, what
            ), odd
        if twice or beyond:
            code = "rendezvous.rank_duplicated" if twice else "rendezvous.rank_out_of_range"
            wrong = twice or beyond
            odd = [p for p, one in meeting.joined if one.group_rank in wrong]
            how = " by two processes" if twice else f", but the ranks are 0 to {meeting.size - 1}"
            what = (
                f"{name_ranks(wrong)} of {meeting.title} {agree(wrong, 'is', 'are')} claimed{how}"
            )
            return self._finding(case, meeting, code, odd, waiting, what), odd
        if not meeting.absent:
            return self._unserved(case, meeting, waiting), waiting
        if others := at_other_addresses(case.state, meeting):
            return self._apart(case, meeting, waiting, others), [p for p, _ in others]
        return self._absent(case, meeting, waiting)

    def _unserved(self, case: Case, meeting: Meeting, waiting: list[Process]) -> Finding | None:
        """All have come, and none of them got a connection."""
        connects = all(one.via != "process group" for _, one in meeting.joined)
        if not connects or len(waiting) < meeting.size:
            return None
        what = f"all {meeting.size} members of {meeting.title} have come, and no process serves the store there"
        by_agent = [p for p, one in meeting.joined if p.identity.agent_store and not one.group_rank]
        if by_agent:
            what += f": under torchrun, torch makes {named(case, by_agent)} a client, too"
        code = "rendezvous.store_unreachable"
        return self._finding(case, meeting, code, [], waiting, what, _HOST_IT if by_agent else "")

    def _apart(
        self,
        case: Case,
        meeting: Meeting,
        waiting: list[Process],
        others: list[tuple[Process, ExtraGroupJoined]],
    ) -> Finding | None:
        """The members that are missing wait at another address; the smaller side is odd."""
        smaller = len(others) < len(waiting) or (len(others) == len(waiting) and 0 in meeting.come)
        if not smaller:
            return None  # the other side reports it
        places = ", ".join(sorted({one.endpoint for _, one in others}))
        odd = [process for process, _ in others]
        waits = "waits" if len(odd) == 1 else "wait"
        what = f"of {meeting.title}, {named(case, odd)} {waits} at another address: {places}"
        code = "rendezvous.endpoint_disagrees"
        return self._finding(case, meeting, code, odd, waiting, what)

    def _absent(
        self, case: Case, meeting: Meeting, waiting: list[Process]
    ) -> tuple[Finding, list[Process]]:
        known, why = absent_processes(case.state, meeting)
        who = f"{meeting.absent}"
        if meeting.missing:
            who = name_ranks(meeting.missing)
        what = f"{who} of {meeting.size} of {meeting.title} did not join"
        ended = [p for p in known if p.ended_ns is not None or p.exception is not None]
        if known:
            code = "rendezvous.rank_died" if ended == known else "rendezvous.rank_missing"
            what += f": that is {named(case, known)} ({why})"
        else:
            seen = len(everybody(case.state))
            code = (
                "rendezvous.rank_never_started"
                if seen < meeting.size
                else "rendezvous.rank_missing"
            )
            what += (
                f": {seen} processes of this run were seen, but it needs {meeting.size} members"
                if seen < meeting.size
                else "; distwatch cannot tell which process that is"
            )
        finding = self._finding(case, meeting, code, known, waiting, what)
        return finding, known or waiting

    def _finding(
        self,
        case: Case,
        meeting: Meeting,
        code: str,
        culprits: list[Process],
        waiting: list[Process],
        what: str,
        advice: str = "",
    ) -> Finding:
        ranks = ranks_here(case, culprits)
        waits = tuple(rank for rank in ranks_here(case, waiting) if rank not in ranks)
        return Finding(
            code=code,
            severity="crash" if code == "rendezvous.rank_died" else "hang",
            culprit_ranks=ranks,
            waiting_ranks=waits,
            summary=f"{what}; {named(case, waiting)} {'waits' if len(waiting) == 1 else 'wait'}",
            advice=advice or _ADVICE[code],
            evidence=(
                *(case.place(rank) for rank in ranks[:_LISTED]),
                *(_evidence(case, process, one) for process, one in meeting.joined[:_LISTED]),
            ),
            confidence=0.9 if culprits else 0.6,
        )


_HOST_IT = (
    "torchrun sets TORCHELASTIC_USE_AGENT_STORE=True, which is meant for the default group alone: set it to "
    "False around this call on every member, or let one member make the TCPStore (is_master=True) and pass it."
)
_ADVICE = {
    "rendezvous.store_unreachable": "One member must host the store (rank 0 of the group, or is_master=True); see "
    "that it did not fail before, and who listens at that port (ss -ltnp).",
    "rendezvous.endpoint_disagrees": "Compute address and port in one place, and pass them to every member.",
    "rendezvous.rank_missing": "Look at what that process does instead of joining the group, and whether it "
    "has the same address, port and group name.",
    "rendezvous.rank_died": "Fix what ended that process; the others only wait for it.",
    "rendezvous.rank_never_started": "Start the missing members, or set world_size to the number that you "
    "start (trainer ranks + tensor size of every engine). This observer may not see other hosts.",
    "rendezvous.rank_duplicated": "Give each member its own rank: an engine's ranks usually begin at "
    "offset 1, after the trainer's.",
    "rendezvous.rank_out_of_range": "Set world_size to the number of all members, including the trainer.",
    "rendezvous.world_size_disagrees": "Compute world_size in one place, and pass it to every member.",
}


def _limit_s(case: Case, process: Process, step: Step) -> float:
    return case.job.limit_s(process, step, GROUP)


def _evidence(case: Case, process: Process, one: ExtraGroupJoined) -> Evidence:
    step = process.steps.get(one.step)
    waits = step is not None and step.ended_ns is None and process.ended_ns is None
    since = f" for {seconds(case.job.age_s(process, step.started_ns))}" if step and waits else ""
    mine = "?" if one.group_rank is None else one.group_rank
    site = f", called at {one.site}" if one.site else ""
    does = f"waits in its {one.via}{since}" if waits else "has joined"
    own = f"rank {process.global_rank}" if process.global_rank is not None else "a process"
    text = (
        f"{own} (pid {process.pid} on {process.host}) {does} as rank {mine} of {one.size or '?'} "
        f"of {one.name or 'a store'} at {one.endpoint}{site}"
    )
    return Evidence("journal", text, process.global_rank)
