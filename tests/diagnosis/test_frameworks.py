"""Parallel states of frameworks: built differently, held side by side, used wrongly."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.finding import Evidence
from distwatch.state.layouts import Layout
from tests.diagnosis.recorded import RecordedJob, judged, only_root

MEGATRON: Layout = {"tp": ((0, 1), (2, 3)), "pp": ((0, 2), (1, 3)), "dp": ((0,), (1,), (2,), (3,))}


def hold(
    job: RecordedJob, rank: int, at: float, layout: Layout, framework: str = "megatron", number: int = 1
) -> None:  # fmt: skip
    groups = tuple(
        ev.HeldGroup(role=f"{axis}_GROUP".upper(), axis=axis, members=group, pg_name=f"{axis}{group[0]}")
        for axis, partition in layout.items()
        for group in partition
        if rank in group
    )  # fmt: skip
    held = ev.LayoutHeld(
        framework=framework,
        number=number,
        groups=groups,
        sizes={group.axis: len(group.members) for group in groups},
        site=ev.Site(file="/job/train.py", line=7, function="setup"),
        stack=("/job/train.py:90 in <module>", "/job/train.py:7 in setup"),
    )
    job.say(rank, at, held)


def holding(layout: Layout, world: int = 4) -> RecordedJob:
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        hold(job, rank, 2.0, layout)
    return job


def later(job: RecordedJob, until: float = 30.0) -> RecordedJob:
    for rank in range(job.world):
        job.pulse(rank, at=until, groups={"0": (0, 0, 2.0)})
    job.tick(until)
    return job


def test_one_layout_everywhere_is_no_finding() -> None:
    job = holding(MEGATRON)
    for rank in range(4):
        job.mesh(rank, 3.0, {"pp": 2, "tp": 2})
    assert judged(later(job)) == []


def test_a_rank_that_holds_other_groups_than_its_peers() -> None:
    job = holding({**MEGATRON, "tp": ((0, 1), (2, 3))})
    hold(job, 3, 2.5, {**MEGATRON, "tp": ((1, 3),)})
    (finding,) = judged(later(job))
    assert (finding.code, finding.severity) == ("group.layout_disagrees", "warning")
    assert "tp groups of megatron" in finding.summary
    assert "rank 1 is in two groups, 0-1 and 1,3" in finding.summary


def test_a_rank_without_a_group_along_an_axis() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in range(4):
        hold(job, rank, 2.0, {**MEGATRON, "pp": ((0, 2),)} if rank != 3 else {"tp": MEGATRON["tp"]})
    (finding,) = judged(later(job))
    assert (
        "the pp groups of megatron do not divide its ranks: ranks 1,3 are in no group"
        in finding.summary
    )


def test_ranks_that_have_just_built_anew_are_given_a_moment() -> None:
    """The journals of a job are read one after the other."""
    job = holding(MEGATRON)
    hold(job, 0, 9.0, {"pp": ((0, 1, 2, 3),), "tp": ((0,),), "dp": ((0,),)}, number=2)
    job.tick(9.5)
    assert judged(job) == []
    job.say(0, 9.6, ev.LayoutReleased(framework="megatron"))
    assert judged(later(job)) == []


def test_sizes_that_differ_while_the_groups_are_built() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in range(4):
        label = "megatron: tp 4" if rank == 3 else "megatron: tp 2 × pp 2"
        job.begin(rank, 50, "parallel state #1", 2.0, label=label)
        job.call_group(rank, 2.0, 1, (0, 1, 2, 3) if rank == 3 else (0, 1), stays=True)
    findings = judged(later(job, 9.0))
    assert [(f.code, f.role) for f in findings] == [
        ("group.layout_disagrees", "root"),
        ("group.members_disagree", "symptom"),
    ]
    assert findings[0].culprit_ranks == (3,)
    assert findings[0].severity == "hang"
    assert "rank 3: tp 4" in findings[0].summary


def test_the_second_initialization_of_one_rank_is_not_compared_with_the_first_of_another() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        job.begin(rank, 50, "parallel state #1", 2.0, label="megatron: tp 2")
        job.say(rank, 2.1, ev.StepEnded(step=50))
    job.begin(0, 60, "parallel state #2", 3.0, label="megatron: pp 2")
    job.tick(4.0)
    assert judged(job) == []


def test_a_training_layout_beside_a_smaller_one_of_an_engine_is_only_noted() -> None:
    job = holding({"tp": ((0, 1, 2, 3),), "dp": ((0,), (1,), (2,), (3,))})
    for rank in range(4):
        hold(job, rank, 2.5, {"tp": ((0, 1), (2, 3))}, "sglang")
    (finding,) = judged(later(job))
    assert (finding.code, finding.severity) == ("group.layout_disagrees", "info")
    assert [evidence.text for evidence in finding.evidence] == [
        "axis  megatron  sglang",
        "tp    4: 0-3    2: 0-1 · 2-3",
    ]


def test_the_same_sizes_with_other_ranks_together_are_a_warning() -> None:
    job = holding({"tp": ((0, 1), (2, 3))})
    for rank in range(4):
        hold(job, rank, 2.5, {"tp": ((0, 2), (1, 3))}, "sglang")
    (finding,) = judged(later(job))
    assert finding.severity == "warning"
    assert finding.evidence[1].text == "tp    2: 0-1 · 2-3  2: 0,2 · 1,3"


def test_a_mesh_whose_tensor_axis_is_not_megatrons() -> None:
    job = holding(MEGATRON)
    for rank in range(4):
        job.mesh(rank, 3.0, {"tensor": 2, "pipeline": 2})
    (finding,) = judged(later(job))
    assert finding.severity == "warning"
    assert "megatron and device mesh 1 (tensor 2 × pipeline 2)" in finding.summary
    assert "tp, pp differ" in finding.summary


def test_frameworks_on_different_ranks_are_not_compared() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in (0, 1):
        hold(job, rank, 2.0, {"tp": ((0, 1),)})
    for rank in (2, 3):
        hold(job, rank, 2.0, {"tp": ((2,), (3,))}, "sglang")
    assert judged(later(job)) == []


# ---- stages that learn nothing --------------------------------------------------------------------


@pytest.mark.parametrize(("of", "words"), [(10, "every backward step"), (40, "10 of 40 backward")])
def test_backward_steps_that_are_left_out(of: int, words: str) -> None:
    job = holding(MEGATRON)
    for rank in (2, 3):
        job.say(rank, 3.0, ev.GradientSkipped(framework="megatron", skipped=10, of=of))
    (finding,) = judged(later(job))
    assert (finding.code, finding.severity) == ("collective.gradient_skipped", "warning")
    assert finding.culprit_ranks == (2, 3)
    assert words in finding.summary
    assert (finding.confidence > 0.6) == (of == 10)
    places = [evidence.text for evidence in finding.evidence]
    assert "rank 3 is pipeline stage 2 of 2, tensor rank 1 of 2 in megatron" in places


def test_a_frozen_stage_and_the_stage_whose_gradient_it_drops_are_both_named() -> None:
    job = holding(MEGATRON)
    for rank in (0, 1):
        job.say(rank, 3.0, ev.GradientSkipped(framework="megatron", skipped=10, of=10))
    (finding,) = judged(later(job))
    assert finding.culprit_ranks == (0, 1)
    assert "every backward step of stage 1 of 2 (ranks 0-1): " in finding.summary
    assert finding.summary.endswith(
        "stage 2 of 2 (ranks 2-3) runs the backward step, and the gradient that is sent back from there is dropped"
    )


# ---- calls that a framework refuses ---------------------------------------------------------------


def test_a_getter_before_any_parallel_state() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    error = "tensor model parallel group is not initialized"
    where = '  File "/venv/megatron/core/parallel_state.py", line 1392, in get_tensor_model_parallel_group'
    for rank in (0, 1):
        job.say(rank, 3.0, ev.ExceptionUncaught(
            type_name="AssertionError", message=error, traceback=(where,),
            site=ev.Site(file="/job/train.py", line=12, function="main"),
        ))  # fmt: skip
        job.exit(rank, 3.2, code=1)
    verdict = only_root(job, "group.not_initialized", 0, 1)
    assert 'distwatch.initialize(framework="megatron"' in verdict.advice
    assert "torch's default group exists" in verdict.summary


def test_a_second_initialization_shows_the_stack_of_the_first() -> None:
    job = holding(MEGATRON)
    error = "AssertionError: data parallel group is already initialized"
    for rank in range(4):
        site = ev.Site(file="/job/train.py", line=33, function="resume")
        job.begin(rank, 70, "parallel state #2", 5.0, label="megatron: tp 4", site=site)
        job.say(rank, 5.1, ev.StepEnded(step=70, error=error))
        job.fail(rank, 5.2, "AssertionError", error.partition(": ")[2])
        job.exit(rank, 5.4, code=1)
    verdict = only_root(job, "group.already_initialized", 0, 1, 2, 3)
    assert "a second time at /job/train.py:33 in resume" in verdict.summary
    assert "tp 2 × pp 2" in verdict.summary
    stack = [evidence.text for evidence in verdict.evidence if evidence.source == "stack"]
    assert stack[:2] == [
        "rank 0, first call: /job/train.py:90 in <module>",
        "rank 0, first call: /job/train.py:7 in setup",
    ]


def test_sizes_that_a_framework_cannot_divide() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    error = "world_size (4) is not divisible by 3"
    for rank in range(4):
        job.begin(rank, 9, "parallel state #1", 2.0, label="megatron: tp 3")
        job.say(rank, 2.1, ev.StepEnded(step=9, error=f"RuntimeError: {error}"))
        job.fail(rank, 2.1, "RuntimeError", error)
        job.exit(rank, 2.3, code=1)
    verdict = only_root(job, "group.size_invalid", 0, 1, 2, 3)
    assert "1, 2, 4" in verdict.advice


# ---- what a rank raises ----------------------------------------------------------------------------


def test_a_verdict_that_a_rank_raised_again_names_the_place_once() -> None:
    """A rank whose deadline passes raises what its observer says, in which the place stands already."""
    job = holding(MEGATRON)
    place = "pipeline stage 2 of 2, tensor rank 1 of 2 in megatron"
    said = Evidence("journal", f"rank 3 is {place}", 3)
    for rank in (0, 1):
        job.raise_finding(
            rank, 4.0, "new_group", code="process.io_blocked", culprit_ranks=(3,),
            summary=f"rank 3 is blocked in the kernel ({place})", evidence=(said,),
        )  # fmt: skip
    (finding,) = judged(later(job))
    assert finding.summary == f"rank 3 is blocked in the kernel ({place})"
    assert finding.evidence.count(said) == 1
