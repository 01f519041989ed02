"""group.size_invalid, already_initialized, not_initialized, not_member: calls that torch rejects."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.checks.failed_calls import FailedCalls, Told, at_site, who_of, words_of
from distwatch.diagnosis.checks.groups.framework_misuse import (
    framework_of,
    heads_do_not_fit,
    initialized_twice,
    used_too_early,
)
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import Failure
from distwatch.diagnosis.facts.initializations import first_init, newest_init
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import agree, name_ranks

_LISTED = 8


def _size_invalid(case: Case, failed: list[Failure]) -> Told:
    world = case.job.world
    words = words_of(failed[0])
    if "kv_" in words:
        return heads_do_not_fit(failed)
    return Told(
        f"{who_of(failed)}: the sizes do not fit the world{f' of {world} ranks' if world else ''}: {words}",
        _fitting_sizes(world),
    )


def _fitting_sizes(world: int | None) -> str:
    if not world:
        return ""
    fitting = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
    return f"The product of all sizes must be {world}: choose each from {fitting}, or start another number of ranks."


def _already_initialized(case: Case, failed: list[Failure]) -> Told:
    if framework := framework_of(failed):
        return initialized_twice(framework, failed)
    evidence = [e for failure in failed[:4] if (e := _first_call(failure.process))]
    first = first_init(failed[0].process)
    before = f" (first at {first.site})" if first and first.site else ""
    return Told(
        f"{who_of(failed)} initialized a second time{at_site(failed[0])}, but the first world still exists{before}: "
        f"{words_of(failed[0])}",
        evidence=tuple(evidence),
    )


def _first_call(process: Process) -> Evidence | None:
    first = first_init(process)
    if first is None:
        return None
    site = f" at {first.site}" if first.site else ""
    text = f"rank {process.global_rank}: first initialized by {first.name}{site}"
    return Evidence("journal", text, process.global_rank)


def _not_initialized(case: Case, failed: list[Failure]) -> Told:
    if framework := framework_of(failed):
        return used_too_early(framework, failed)
    destroyed = any(f.process.confirmed is not None for f in failed)
    tried = any(newest_init(f.process) is not None for f in failed)
    if destroyed:
        why = "its world was destroyed before"
    elif tried:
        why = "its initialization did not succeed"
    else:
        why = "init_process_group was never called there"
    return Told(
        f"{who_of(failed)} used a group that does not exist{at_site(failed[0])}: {words_of(failed[0])} ({why})",
        "Do not destroy the groups before their last use, or initialize again."
        if destroyed
        else "",
    )


def _not_member(case: Case, failed: list[Failure]) -> Told:
    return Told(
        f"{who_of(failed)} used a group without being a member{at_site(failed[0])}: {words_of(failed[0])}",
    )


MISUSED = FailedCalls(
    {
        "group.size_invalid": _size_invalid,
        "group.already_initialized": _already_initialized,
        "group.not_initialized": _not_initialized,
        "group.not_member": _not_member,
    }
)


class CallsOfOthers:
    """Collectives on a group without the caller: torch only warns and does nothing."""

    def find(self, case: Case) -> Iterable[Finding]:
        calling = {r: p for r, p in case.job.ranks.items() if p.non_member_calls}
        if not calling:
            return
        calls = [(rank, call) for rank, p in calling.items() for call in p.non_member_calls]
        operations = ", ".join(sorted({call.op for _, call in calls}))
        yield Finding(
            code="group.not_member",
            severity="warning",
            culprit_ranks=tuple(calling),
            summary=f"{name_ranks(calling)} called {operations} on a group without "
            f"{agree(calling, 'that rank', 'those ranks')}: torch did nothing, and results there are unchanged",
            advice="Make that call only where dist.get_rank(group) is not negative, or on a group that holds the rank.",
            evidence=tuple(
                Evidence(
                    "journal",
                    f"rank {rank}: {call.op}{f' at {call.site}' if call.site else ''}",
                    rank,
                )
                for rank, call in calls[:_LISTED]
            ),
        )
