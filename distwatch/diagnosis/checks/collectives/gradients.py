"""collective.gradient_skipped: a pipeline stage does not train, because its output needs no gradient."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
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
            yield _finding(framework, ranks)


def _finding(framework: str, ranks: dict[int, GradientSkipped]) -> Finding:
    always = all(skipped.skipped == skipped.of for skipped in ranks.values())
    first = ranks[min(ranks)]
    often = "every" if always else f"{first.skipped} of {first.of}"
    at = f" at {first.site}" if first.site else ""
    return Finding(
        code="collective.gradient_skipped",
        severity="warning",
        culprit_ranks=tuple(sorted(ranks)),
        summary=f"{framework} skips {often} backward step{'' if always else 's'} on "
        f"{name_ranks(ranks)}{at}: the output of their stage needs no gradient, so nothing there is trained",
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
