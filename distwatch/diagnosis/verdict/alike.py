"""One cause on many ranks is one finding, though each of them was found, or said so, by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.state.finding import Finding
from distwatch.state.rank_sets import name_ranks

_LISTED = 8
_Key = tuple[object, ...]


def merge_alike(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one rank each that say the same of different ranks, as one; in the order of the first ones."""
    together: dict[_Key, list[Finding]] = {}
    for number, finding in enumerate(findings):
        together.setdefault(_key(finding, number), []).append(finding)
    return [_merged(alike) if len(alike) > 1 else alike[0] for alike in together.values()]


def _key(finding: Finding, number: int) -> _Key:
    if len(finding.culprit_ranks) != 1:
        return (number,)
    (rank,) = finding.culprit_ranks
    said = re.sub(rf"\brank {rank}\b", "rank *", finding.summary)
    return finding.code, finding.severity, finding.role, finding.pg_name, finding.advice, said


def _merged(alike: list[Finding]) -> Finding:
    ordered = sorted(alike, key=lambda finding: finding.culprit_ranks)
    first, ranks = ordered[0], [rank for finding in ordered for rank in finding.culprit_ranks]
    waiting = {rank for finding in ordered for rank in finding.waiting_ranks} - set(ranks)
    evidence = [one for finding in ordered for one in finding.evidence[:1]]
    return msgspec.structs.replace(
        first,
        culprit_ranks=tuple(dict.fromkeys(ranks)),
        waiting_ranks=tuple(sorted(waiting)),
        summary=f"{first.summary}; the same holds for {name_ranks(ranks[1:])}",
        evidence=tuple([*first.evidence, *evidence[1:]][:_LISTED]),
        confidence=min(finding.confidence for finding in ordered),
    )
