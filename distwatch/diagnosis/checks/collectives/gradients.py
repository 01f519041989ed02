"""collective.gradient_skipped: a pipeline stage does not train, because its output needs no gradient."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.job import Job
from distwatch.state.events import GradientSkipped
from distwatch.state.finding import Evidence, Finding
from distwatch.state.rank_sets import name_ranks

_LISTED = 8


class GradientsSkipped:
    """The schedule silently skips such a stage's backward step."""

    def find(self, case: Case) -> Iterable[Finding]:
        by_framework: dict[str, dict[int, GradientSkipped]] = {}
        for rank, process in case.job.ranks.items():
            for framework, skipped in process.skipped_gradients.items():
                by_framework.setdefault(framework, {})[rank] = skipped
        for framework, ranks in sorted(by_framework.items()):
            yield _finding(framework, ranks, _stages(case.job, framework))


def _stages(job: Job, framework: str) -> dict[int, list[int]]:
    """By pipeline stage, counted from 1, its ranks; {} without stages, or where one is not known."""
    stages: dict[int, list[int]] = {}
    for rank, process in job.ranks.items():
        held = process.layouts.get(framework)
        groups = held.groups if held is not None else ()
        line = next((g.members for g in groups if g.axis == "pp" and rank in g.members), ())
        if len(line) < 2:
            return {}
        stages.setdefault(line.index(rank) + 1, []).append(rank)
    return dict(sorted(stages.items()))


def _where(ranks: dict[int, GradientSkipped], stages: dict[int, list[int]]) -> tuple[str, str]:
    """Who skips, and what the stages do that do not skip."""
    skip = [number for number, members in stages.items() if set(members) <= set(ranks)]
    if set(ranks) != {rank for number in skip for rank in stages[number]}:
        return f"on {name_ranks(ranks)}", ""

    def named(numbers: list[int]) -> str:
        told = [f"{n} of {len(stages)} ({name_ranks(stages[n])})" for n in numbers]
        return " and ".join(told)

    others = [number for number in stages if number not in skip]
    after = [number for number in others if number - 1 in skip]
    told = (
        f"; stage {named(others)} {'runs' if len(others) == 1 else 'run'} the backward step"
        if others
        else ""
    )
    if after:
        # Megatron receives activations as tensors that need a gradient, whatever made them.
        told += ", and the gradient that is sent back from there is dropped"
    return f"of stage {named(skip)}", told


def _finding(
    framework: str, ranks: dict[int, GradientSkipped], stages: dict[int, list[int]]
) -> Finding:
    always = all(skipped.skipped == skipped.of for skipped in ranks.values())
    first = ranks[min(ranks)]
    often = "every" if always else f"{first.skipped} of {first.of}"
    at = f" at {first.site}" if first.site else ""
    where, others = _where(ranks, stages)
    return Finding(
        code="collective.gradient_skipped",
        severity="warning",
        culprit_ranks=tuple(sorted(ranks)),
        summary=f"{framework} skips {often} backward step{'' if always else 's'} {where}{at}: "
        f"the output there needs no gradient, so nothing there is trained{others}",
        evidence=tuple(
            Evidence(
                "journal",
                f"rank {rank}: {skipped.skipped} of {skipped.of} backward steps skipped",
                rank,
            )
            for rank, skipped in sorted(ranks.items())[:_LISTED]
        ),
        # A branch that some batches do not use (a vision encoder without images) is not a fault.
        confidence=0.9 if always else 0.5,
    )
