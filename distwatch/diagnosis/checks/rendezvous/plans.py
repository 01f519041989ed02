"""Plans that differ: world_size_disagrees, config_disagrees, and layout_disagrees as requested."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.claims import out_of_range
from distwatch.diagnosis.facts.endpoints import by_endpoint
from distwatch.diagnosis.facts.init_waits import evidence_of_waiting
from distwatch.diagnosis.facts.initializations import holds_world, number_of
from distwatch.state.agreement import disagreements
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding

SETTLED_S = 2.0
"""Settings that only look different let the world form well before this."""
Plans = dict[int, InitPlanned]


class PlansDisagree:
    """Compares the ranks that wait at one endpoint for one initialization."""

    def find(self, case: Case) -> Iterable[Finding]:
        for plans in _comparable(case):
            hosts = {rank: case.job.ranks[rank].host for rank in plans}
            for finding in disagreements(plans, hosts):
                if told := self._in_case(case, finding, plans):
                    yield told

    def _in_case(self, case: Case, finding: Finding, plans: Plans) -> Finding | None:
        if not finding.blocks:
            return finding
        odd = set(finding.culprit_ranks)
        formed = all(holds_world(case.job.ranks[rank]) for rank in plans)
        hangs = any(view.overdue for view in case.groups) or bool(case.deaths.victims)
        if formed and not hangs:
            # The world formed anyway; a rank that has ended since has ended well.
            return msgspec.structs.replace(finding, severity="warning", waiting_ranks=())
        if finding.code == "rendezvous.config_disagrees" and not formed and not _settled(case):
            return None
        waiting = {*case.waiting, *finding.waiting_ranks, *case.waiting_for(odd)} - odd
        return msgspec.structs.replace(
            finding,
            waiting_ranks=tuple(sorted(waiting)),
            evidence=(
                *(_with_site(one, plans) for one in finding.evidence),
                *evidence_of_waiting(case, [rank for rank in case.waiting if rank in plans]),
            ),
        )


def _comparable(case: Case) -> list[Plans]:
    """The plans of the ranks that must form a world, for each endpoint and initialization."""
    odd = out_of_range(case)
    ranks: dict[int, dict[str, int]] = {}
    for rank, process in case.job.ranks.items():
        if process.planned and process.planned.global_rank is not None and rank not in odd:
            ranks.setdefault(number_of(process), {})[process.key] = rank
    return [
        {of_number[p.key]: p.planned for p in met if p.planned}
        for of_number in ranks.values()
        for met in by_endpoint([case.job.ranks[r] for r in of_number.values()], case.state)
        if len(met) > 1
    ]


def _settled(case: Case) -> bool:
    return any(step.error or case.waiting_s(r) >= SETTLED_S for r, step in case.waiting.items())


def _with_site(evidence: Evidence, plans: Plans) -> Evidence:
    plan = plans.get(evidence.global_rank) if evidence.global_rank is not None else None
    if plan is None or plan.site is None:
        return evidence
    return msgspec.structs.replace(evidence, text=f"{evidence.text} (called at {plan.site})")
