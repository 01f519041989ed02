"""Why ranks part and at which step, with real ranks: while they hang, and after they and the observer are gone."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.targets.target import RunHere
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.support.marked_lines import marked_places
from tests.support.ranks import JOBS, launch_ranks

SCRIPT = JOBS / "parts.py"


def line_of(case: str) -> int:
    lines = SCRIPT.read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f"# < {case}"))


def is_why(finding: Finding, case: str, kind: str) -> bool:
    """Whether the finding's first way is under the condition that the script marks."""
    if not finding.why:
        return False
    first = finding.why[0]
    found = (first.kind, first.file, first.condition_line)
    return found == (kind, str(SCRIPT), line_of(case))


@pytest.mark.parametrize(
    ("case", "marked", "kind", "steps"),
    [("told", "save", "branch", {1203}), ("damaged", "damaged", "try", {3})],
)
def test_a_live_verdict_names_the_line_where_the_ranks_part(
    case: str, marked: str, kind: str, steps: set[int]
) -> None:
    with launch_ranks("parts", 2, args=(case,)) as job:
        job.wait_step("barrier", {1})

        def explained(state: RunState) -> bool:
            found = diagnose(state)
            return bool(found) and is_why(found[0], marked, kind)

        state = job.wait_state(explained)
        assert {status.step for status in rank_statuses(state)} == steps
        finding = diagnose(state)[0]
        assert f"parts.py:{line_of(marked)}" in finding.summary
        assert "at step " in finding.summary


@pytest.mark.parametrize(
    ("script", "way", "code", "culprits", "world"),
    [
        ("partings", "swallowed", "collective.count_uneven", {2}, 3),
        ("partings", "callback", "collective.count_uneven", {0, 1}, 2),
        ("partings", "hook", "collective.shape_mismatch", {0, 1}, 2),
        ("partings", "retry", "collective.op_mismatch", {0, 1}, 2),
        ("partings", "no_sync", "collective.count_uneven", {0, 1}, 2),
        ("divergences", "accumulate_tail", "collective.count_uneven", {0, 1}, 2),
        ("divergences", "set_order", "collective.shape_mismatch", {0, 1}, 2),
    ],
)
def test_shapes_of_code_in_which_ranks_part(
    script: str, way: str, code: str, culprits: set[int], world: int
) -> None:
    with launch_ranks(script, world, args=(way,)) as job:
        job.wait_verdict(code, culprits, mentions=(marked_places(script, way)[0],))


def test_a_live_verdict_names_what_keeps_a_rank_from_its_send() -> None:
    with launch_ranks("parts", 2, args=("pipeline",)) as job:

        def explained(state: RunState) -> bool:
            found = diagnose(state)
            return bool(found) and is_why(found[0], "unsent", "continue")

        finding = diagnose(job.wait_state(explained))[0]
        assert finding.code == "p2p.unmatched"
        assert "before its send to rank 1" in finding.summary


def test_a_post_mortem_reads_the_source_that_nobody_read_before() -> None:
    with launch_ranks("parts", 2, args=("save",), env={"DISTWATCH_OBSERVER": "off"}) as job:
        job.wait_step("barrier", {1})
        job.wait_state(lambda state: len(diagnose(state)) > 0)
        job.kill_everything(observer=True)
        finding = RunHere(job.folder).report().findings[0]
        assert finding.code == "collective.op_mismatch"
        assert is_why(finding, "save", "branch")
        assert finding.why[0].global_ranks == (0,)
