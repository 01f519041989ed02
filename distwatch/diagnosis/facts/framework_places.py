"""A rank's coordinates in a framework's layout, in the framework's words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.state.codes import family_of
from distwatch.state.events import LayoutHeld
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process

_TOLD = 4
_NAMES = {
    "tp": "tensor rank", "cp": "context rank", "dp": "data rank", "ep": "expert rank",
}  # fmt: skip


def place_in(held: LayoutHeld, global_rank: int) -> str:
    """`pipeline stage 2 of 2, tensor rank 1 of 2`; '' where all sizes are 1."""
    words: list[str] = []
    for group in held.groups:
        if len(group.members) < 2 or global_rank not in group.members:
            continue
        index, size = group.members.index(global_rank), len(group.members)
        if group.axis == "pp":
            words.insert(0, f"pipeline stage {index + 1} of {size}")
        elif group.axis in _NAMES:
            words.append(f"{_NAMES[group.axis]} {index} of {size}")
    return ", ".join(words)


def places_of(process: Process) -> list[str]:
    """A line for each framework: `pipeline stage 2 of 2, tensor rank 1 of 2 in megatron`."""
    rank = process.global_rank
    places = {
        name: place_in(held, rank) for name, held in process.layouts.items() if rank is not None
    }
    return [f"{place} in {name}" for name, place in places.items() if place]


def _roles_of(job: Job, pg_names: Collection[str]) -> dict[str, str]:
    """The frameworks' names for these groups, by name; only of those that some framework holds."""
    found: dict[str, str] = {}
    for process in job.ranks.values() if pg_names else ():
        for held in process.layouts.values():
            for group in held.groups:
                if group.pg_name in pg_names:
                    found.setdefault(group.pg_name, f"{held.framework}'s {group.role}")
    return found


def with_places(job: Job, found: Iterable[Finding]) -> list[Finding]:
    """The findings; each that blames few ranks also names their places in the frameworks' layouts."""
    found = list(found)
    roles = _roles_of(job, {finding.pg_name for finding in found if finding.pg_name})
    return [_placed(job, finding, roles) for finding in found]


def _placed(job: Job, finding: Finding, roles: Mapping[str, str]) -> Finding:
    if not family_of(finding.code).has_place:
        return finding
    culprits = {r: job.ranks[r] for r in finding.culprit_ranks[:_TOLD] if r in job.ranks}
    more = [
        Evidence("journal", f"rank {rank} is {place}", rank)
        for rank, process in culprits.items()
        for place in places_of(process)
    ]
    if role := roles.get(finding.pg_name or ""):
        text = f"group {finding.pg_name} is {role}"
        more.append(Evidence("journal", text))
    if not more:
        return finding
    if len(finding.culprit_ranks) == 1:
        finding = finding.with_remark(more[0].text.partition(" is ")[2])
    new = [one for one in more if one not in finding.evidence]
    return msgspec.structs.replace(finding, evidence=(*finding.evidence, *new))
