"""group.size_invalid, already_initialized, not_initialized, not_member: calls that torch rejects."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.checks.groups.framework_misuse import (
    Told,
    endpoint_of,
    framework_of,
    heads_do_not_fit,
    initialized_twice,
    used_too_early,
)
from distwatch.diagnosis.checks.rendezvous.environments import ranks_of, severity_of, who_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import Failure
from distwatch.diagnosis.facts.initializations import first_init, newest_init
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.rank_sets import agree, name_ranks

_LISTED = 8
_OWN_RANK = re.compile(r"\brank \d+")


class GroupMisused:
    """One finding for each kind of misuse and each of its messages."""

    def find(self, case: Case) -> Iterable[Finding]:
        by_kind: dict[tuple[str, str], list[Failure]] = {}
        for failure in case.failures:
            if failure.code in _TELLERS:
                kind = failure.code, _OWN_RANK.sub("rank N", _words(failure))
                by_kind.setdefault(kind, []).append(failure)
        for (code, _), failed in sorted(by_kind.items()):
            words = _words(failed[0])
            culprits = ranks_of(failed)
            waiting = case.waiting_for(culprits)
            summary, advice, more = _TELLERS[code](case, failed, words)
            yield Finding(
                code=code,
                severity=severity_of(case, failed, waiting),
                culprit_ranks=culprits,
                waiting_ranks=waiting,
                summary=summary,
                advice=advice,
                evidence=(*(failure.evidence() for failure in failed[:_LISTED]), *more),
            )
        yield from _calls_of_others(case)


def _words(failure: Failure) -> str:
    """The message without its type, on one line; ranks with the same fault may differ in numbers."""
    return (failure.text.partition(": ")[2].strip().splitlines() or [""])[0][:200]


def _size_invalid(case: Case, failed: list[Failure], words: str) -> Told:
    world = case.job.world
    if "kv_" in words:
        return heads_do_not_fit(failed, words)
    return (
        f"{who_of(failed)}: the sizes do not fit the world{f' of {world} ranks' if world else ''}: {words}",
        _fitting_sizes(world),
        (),
    )


def _fitting_sizes(world: int | None) -> str:
    if not world:
        return ""
    fitting = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
    return f"The product of all sizes must be {world}: choose each from {fitting}, or start another number of ranks."


def _already_initialized(case: Case, failed: list[Failure], words: str) -> Told:
    if framework := framework_of(failed):
        return initialized_twice(framework, failed, words)
    evidence = [e for failure in failed[:4] if (e := _first_call(failure.process))]
    first = first_init(failed[0].process)
    before = f" (first at {first.site})" if first and first.site else ""
    again = f" at {failed[0].site}" if failed[0].site else ""
    return (
        f"{who_of(failed)} initialized a second time{again}, but the first world still exists{before}: {words}",
        "",
        tuple(evidence),
    )


def _first_call(process: Process) -> Evidence | None:
    first = first_init(process)
    if first is None:
        return None
    site = f" at {first.site}" if first.site else ""
    text = f"rank {process.global_rank}: first initialized by {first.name}{site}"
    return Evidence("journal", text, process.global_rank)


def _not_initialized(case: Case, failed: list[Failure], words: str) -> Told:
    if framework := framework_of(failed):
        return used_too_early(framework, failed, words)
    destroyed = any(f.process.confirmed is not None for f in failed)
    tried = any(newest_init(f.process) is not None for f in failed)
    if destroyed:
        why = "its world was destroyed before"
    elif tried:
        why = "its initialization did not succeed"
    else:
        why = "init_process_group was never called there"
    return (
        f"{who_of(failed)} used a group that does not exist{endpoint_of(failed[0])}: {words} ({why})",
        "Do not destroy the groups before their last use, or initialize again."
        if destroyed
        else "",
        (),
    )


def _not_member(case: Case, failed: list[Failure], words: str) -> Told:
    return (
        f"{who_of(failed)} used a group without being a member{endpoint_of(failed[0])}: {words}",
        "",
        (),
    )


_TELLERS = {
    "group.size_invalid": _size_invalid,
    "group.already_initialized": _already_initialized,
    "group.not_initialized": _not_initialized,
    "group.not_member": _not_member,
}


def _calls_of_others(case: Case) -> Iterable[Finding]:
    """Collectives on a group without the caller: torch only warns and does nothing."""
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
                "journal", f"rank {rank}: {call.op}{f' at {call.site}' if call.site else ''}", rank
            )
            for rank, call in calls[:_LISTED]
        ),
    )
