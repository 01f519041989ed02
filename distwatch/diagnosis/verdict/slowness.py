"""A rank that still moves something is slow, and one that waits for requests is idle: neither hangs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from distwatch.diagnosis.checks.processes.blocked_ranks import waits_text
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.idleness import idle_ranks
from distwatch.diagnosis.facts.movement import compiles, movement_of
from distwatch.state.codes import code_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.rank_sets import name_ranks

SLOW, COMPILING = "collective.straggler", "process.compiling"
_CERTAIN = 0.8


def tell_slow_from_stuck(case: Case, found: Iterable[Finding]) -> list[Finding]:
    """The findings, as warnings where their culprits move, and without those about idle ranks."""
    found = list(found)
    if not any(map(_needs_standstill, found)):
        return found  # a healthy job of very many ranks is judged each second
    idle = idle_ranks(case.job, case.groups)
    told: dict[tuple[int, ...], Finding] = {}
    kept: list[Finding] = []
    for finding in found:
        culprits = finding.culprit_ranks
        if not _needs_standstill(finding):
            kept.append(finding)
        elif set(culprits) <= idle.keys():
            continue
        elif finding.severity == "hang" and (moved := _moved(case, culprits)):
            # One warning for those ranks, whatever else they would be blamed for.
            if culprits not in told or not told[culprits].waiting_ranks:
                told[culprits] = _slow(case, finding, moved)
        else:
            kept.append(finding)
    return [*kept, *told.values()]


def _needs_standstill(finding: Finding) -> bool:
    return bool(finding.culprit_ranks) and code_of(finding.code).needs_standstill


def _moved(case: Case, ranks: tuple[int, ...]) -> dict[int, str]:
    """What each of them moves; empty where one of them moves nothing."""
    moved = {rank: movement_of(case, rank) for rank in ranks}
    return moved if all(moved.values()) else {}


def _slow(case: Case, finding: Finding, moved: dict[int, str]) -> Finding:
    compiling = all(compiles(case, rank) for rank in moved)
    return msgspec.structs.replace(
        finding,
        code=COMPILING if compiling else SLOW,
        severity="warning",
        summary=_summary(case, moved, compiling=compiling),
        advice="",
        evidence=(*_evidence(moved), *finding.evidence),
        confidence=min(finding.confidence, _CERTAIN),
    )


def _summary(case: Case, moved: dict[int, str], *, compiling: bool) -> str:
    first = next(iter(moved))
    who = name_ranks(moved, "is", "are")
    place = case.where(first) if len(moved) == 1 else ""
    doing = "compiling" if compiling else "slow, not stuck"
    waits = waits_text(case, first, tuple(sorted(case.graph.behind(moved) - moved.keys())))
    return f"{who} {doing}{', at ' + place if place else ''}: {moved[first]}{waits}"


def _evidence(moved: dict[int, str]) -> Iterator[Evidence]:
    for rank, what in moved.items():
        yield Evidence("proc", f"rank {rank} moves: {what}", rank)
