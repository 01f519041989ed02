"""A tiny real GPT of Megatron's, under Megatron's own schedules, on gloo ranks."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import PATIENT, launch_ranks
from tests.support.verdicts import assert_healthy, text_of

QUIET = {"DISTWATCH_DEADLINES": PATIENT}


def test_a_stage_that_waits_for_a_shard_is_named_with_its_groups() -> None:
    """Rank 3 reads what never comes; its tensor group and the stage before wait for it."""
    with launch_ranks("megatron_gpt", 4, args=("2", "2", "shard")) as job:
        job.wait_step("step 0", range(4), timeout_s=120)
        finding = job.wait_verdict(
            "process.data_stall", {3}, mentions=("shard", "read_next_shard"), timeout_s=90
        )
        assert set(finding.waiting_ranks) == {0, 1, 2}
        told = text_of(finding)
        assert "pipeline stage 2 of 2, tensor rank 1 of 2 in megatron" in finding.summary
        assert "TENSOR_MODEL_PARALLEL_GROUP" in told
        assert "PIPELINE_MODEL_PARALLEL_GROUP" in told


def test_the_same_model_that_trains_is_sound() -> None:
    with launch_ranks("megatron_gpt", 4, args=("2", "2", "sound"), env=QUIET) as job:
        job.wait_step("gate end", range(4), timeout_s=120)
        job.wait_ticks(1)
        assert diagnose(job.state()) == []
        losses = [line for line in job.output("rank3.log").splitlines() if "'loss'" in line]
        assert len(losses) == 3
        assert losses[0].split()[-1] > losses[-1].split()[-1], "it has learned"


def test_a_stage_that_needs_no_gradient_is_told_where_megatron_says_nothing() -> None:
    with launch_ranks("megatron_gpt", 1, args=("1", "1", "frozen"), env=QUIET) as job:
        job.wait_step("gate end", {0}, timeout_s=120)

        def skipped_is_known(state: RunState) -> bool:
            return any(f.code == "collective.gradient_skipped" for f in diagnose(state))

        findings = diagnose(job.wait_state(skipped_is_known))
        (finding,) = [f for f in findings if f.code == "collective.gradient_skipped"]
        assert (finding.severity, finding.culprit_ranks) == ("warning", (0,))
        assert "enable_input_require_grads" in finding.advice
        assert "every backward step on rank 0" in finding.summary
        assert "Error" not in job.output("rank0.log")
        assert_healthy(findings)
