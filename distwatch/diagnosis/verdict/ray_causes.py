"""Ray's own words, added to the checks' findings about the same ranks: one death is one finding."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.processes.actor_ends import ray_says, restarts_text
from distwatch.diagnosis.checks.rendezvous.unplaced import unstarted_ranks
from distwatch.diagnosis.facts.case import Case
from distwatch.state.codes import code_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.ray_events import RayActorSeen
from distwatch.visible_text import shorten

_LISTED = 4
_CUT = 200
_WAITERS = re.compile(r"; ranks? ")
"""Where a summary begins to name those that wait."""


def with_ray(case: Case, found: list[Finding]) -> list[Finding]:
    """The findings with what Ray says about their culprits; unchanged where Ray was not asked."""
    if not case.actors and not case.placement_groups:
        return found
    told = [_with_deaths(case, f) if code_of(f.code).ends_rank else f for f in found]
    return _merged(case, told)


def _with_deaths(case: Case, finding: Finding) -> Finding:
    rows = [row for rank in finding.culprit_ranks if (row := _row_of(case, rank)) is not None]
    said = {evidence.text for evidence in finding.evidence}
    news = [row for row in rows[:_LISTED] if ray_says(case, row) not in said]
    if not news:
        return finding
    by_monitor = code_of(finding.code).by_signal and all(
        row.death == "out_of_memory" for row in rows
    )
    return msgspec.structs.replace(
        finding,
        code="process.oom_killed" if by_monitor else finding.code,
        advice="" if by_monitor else finding.advice,
        summary=f"{finding.summary}{_clauses(case, finding, news)}",
        evidence=(
            *finding.evidence,
            *(Evidence("exit", ray_says(case, row), row.global_rank) for row in news),
        ),
    )


def _row_of(case: Case, rank: int) -> RayActorSeen | None:
    """What Ray says about a rank's end, if it says anything."""
    process = case.job.ranks.get(rank)
    if process is None:
        return None
    row = case.ray.own_row(process) or case.ray.actor_of(process)
    return row if row is not None and (row.state == "DEAD" or row.restarts) else None


def _clauses(case: Case, finding: Finding, rows: list[RayActorSeen]) -> str:
    """Each cause once, with its ranks where there are several."""
    told = {text: row for row in reversed(rows) if (text := _words(row))}
    named = len(finding.culprit_ranks) > 1
    clauses = [
        f"{_whose(case, row) if named else ''}{shorten(text, _CUT)}"
        for text, row in reversed(told.items())
    ]
    return f" (Ray: {'; '.join(clauses)})" if clauses else ""


def _whose(case: Case, row: RayActorSeen) -> str:
    rank = case.rank_of_actor.get(row.actor_id, row.global_rank)
    return "" if rank is None else f"rank {rank}: "


def _words(row: RayActorSeen) -> str:
    restarts = f"it {restarts_text(row)}" if row.restarts else ""
    died = (row.death_text or row.death) if row.state == "DEAD" else ""
    return "; ".join(filter(None, (died, restarts)))


def _merged(case: Case, found: list[Finding]) -> list[Finding]:
    """A rank that never started and an actor without a rank that died or was never placed are one finding."""
    by_ray = unstarted_ranks(case).keys()
    unnamed = [f for f in found if not f.culprit_ranks and f.blocks and _is_rays(f)]
    seen = [f for f in found if code_of(f.code).absent and set(f.culprit_ranks) - by_ray]
    if not unnamed or not seen:
        return found
    first = seen[0]
    whole = msgspec.structs.replace(
        first,
        summary=f"{first.summary}; {_WAITERS.split(unnamed[0].summary)[0]}",
        advice=unnamed[0].advice,
        evidence=(*_evidence_of(unnamed), *first.evidence),
        confidence=max(first.confidence, 0.8),
    )
    return [whole if f is first else f for f in found if f not in unnamed]


def _is_rays(finding: Finding) -> bool:
    code = code_of(finding.code)
    return (code.absent or code.ends_rank) and any(map(_says_ray, finding.evidence))


def _evidence_of(findings: Iterable[Finding]) -> Iterable[Evidence]:
    return [e for finding in findings for e in finding.evidence if _says_ray(e)]


def _says_ray(evidence: Evidence) -> bool:
    return evidence.text.startswith(("Ray: ", "placement group"))
