"""The real SGLang on gloo and a CPU, in an environment of its own: `make test-sglang`."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import DEADLINES, PATIENT, Job, free_port, launch_ranks
from tests.support.verdicts import assert_healthy

if importlib.util.find_spec("sglang") is None:
    pytest.skip("SGLang is not installed here: make test-sglang", allow_module_level=True)

pytestmark = pytest.mark.timeout(900)
JOB = "../../real_sglang/job"
SLOW = {"DISTWATCH_DEADLINES": PATIENT}
IMPORT_S = 200.0


def said(job: Job, rank: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((job.work / f"said-{rank}.json").read_text())
    return read


def test_initialize_makes_its_groups_work_outside_a_server() -> None:
    with launch_ranks(JOB, 4, env=SLOW, args=["initialize"]) as job:
        job.wait_step("gate held", range(4), IMPORT_S)
        state = job.state()
        held = {p.global_rank: p.layouts["sglang"] for p in state.processes.values() if p.layouts}
        assert set(held) == {0, 1, 2, 3}
        assert {axis: held[2].sizes[axis] for axis in ("tp", "pp")} == {"tp": 2, "pp": 2}
        assert_healthy(diagnose(state))
        for rank in range(4):
            job.open_gate("held", rank)
        job.wait_step("gate end", range(4), IMPORT_S)
        for rank, tp, pp in ((0, [0, 1], [0, 2]), (3, [2, 3], [1, 3])):
            found = said(job, rank)
            assert found["held"]["tp"] == found["held"]["attn_tp"] == tp
            assert found["held"]["pp"] == pp
            assert found["held"]["world"] == [0, 1, 2, 3]
            assert found["summed"] == sum(tp) + 2
            assert found["ranks"] == {"tp_rank": rank % 2, "pp_rank": rank // 2, "tp_size": 2}
            assert found["again"] == [0, 1, 2, 3]


def test_its_own_initialization_is_seen() -> None:
    with launch_ranks(JOB, 2, env=SLOW, args=["by_itself"]) as job:
        job.wait_step("gate end", {0, 1}, IMPORT_S)
        process = next(p for p in job.state().processes.values() if p.global_rank == 1)
        assert process.layouts["sglang"].label == "sglang: tp 2"
        assert process.layouts["sglang"].site is not None
        assert process.layouts["sglang"].site.function == "by_itself"


def test_a_getter_before_the_groups_names_the_call_that_makes_them() -> None:
    with launch_ranks(JOB, 1, env=SLOW, args=["too_early"]) as job:
        finding = job.wait_verdict("group.not_initialized", {0}, timeout_s=IMPORT_S)
        assert 'distwatch.initialize(framework="sglang"' in finding.advice


def test_its_weight_sync_group_names_who_does_not_come() -> None:
    env = {"DISTWATCH_DEADLINES": DEADLINES, "TEST_SYNC_PORT": str(free_port())}
    with launch_ranks(JOB, 3, env=env, args=["weight_sync"]) as job:
        job.wait_step("elsewhere", {2}, IMPORT_S)
        job.wait_verdict("rendezvous.rank_missing", {2}, mentions=("did not join",), timeout_s=100)


def test_a_model_runner_for_two_sided_perturbation() -> None:
    with launch_ranks(JOB, 1, env=SLOW, args=["mezo"]) as job:
        job.wait_step("gate end", {0}, IMPORT_S)
        found = said(job, 0)
        assert any("distwatch.initialize" in line for line in found["before"])
        assert found["after"] == []
        assert found["shape"] == [4, 128]
        assert found["runs"] == 4, "both sides of a batch of two"
        plus, minus, back = found["sides"]
        assert plus > 1e-3
        assert minus > 1e-3
        assert back < 1e-4, "the weights are what they were"
        assert_healthy(diagnose(job.state()))


def test_a_runner_takes_the_groups_that_initialize_has_built() -> None:
    with launch_ranks(JOB, 2, env=SLOW, args=["runner_after_the_groups"]) as job:
        job.wait_step("gate end", {0, 1}, IMPORT_S)
        for rank in (0, 1):
            found = said(job, rank)
            assert found["runs"] == 4
            held, asked = found["refused"]
            assert held.endswith("sglang tp=2")
            assert asked.endswith("sglang pp=2")
        assert_healthy(diagnose(job.state()))


def test_the_part_of_a_runner_that_stalls_is_named_on_both_ranks() -> None:
    with launch_ranks(JOB, 2, env=SLOW, args=["runner_stalls"]) as job:
        job.wait_step("stalled", {1}, IMPORT_S)
        finding = job.wait_verdict("load.stalled", {1}, mentions=("stall",), timeout_s=100)
        assert "made no progress in ModelRunner(" in finding.summary
        assert "phase weights" in finding.summary
        job.wait_step("gate end", {0}, 100)
        assert "weights did not finish within 30 s, at job.py:" in said(job, 1)["message"]
        waits = said(job, 0)
        assert waits["missing"] == [1], "who waits for it is no culprit"
        assert "rank 1 has made no progress" in waits["message"]
        assert "stall" in waits["places"]["1"]


def test_every_part_that_stalls_is_named_and_ended() -> None:
    with launch_ranks(JOB, 1, env=SLOW, args=["stalls"]) as job:
        job.wait_step("gate end", {0}, IMPORT_S + 9 * 30)
        found = said(job, 0)
        parts = "ServerArgs, ModelConfig, architecture, model, weights, KV cache, memory pool, attention backend"
        assert list(found) == [*parts.split(", "), "CUDA graphs"]
        for phase, (message, summary) in found.items():
            assert f"{phase} did not finish within 8 s, at job.py:" in message
            assert f"phase {phase}" in summary


def test_architectures_run_forward_on_two_ranks_and_those_without_logits_are_refused() -> None:
    with launch_ranks(JOB, 2, env=SLOW, args=["architectures"]) as job:
        job.wait_step("gate end", {0, 1}, 2 * IMPORT_S)
        for rank in (0, 1):
            found = said(job, rank)
            for name in ("GPT2LMHeadModel", "OPTForCausalLM", "LlamaForCausalLM"):
                assert found[name] < 1e-5, "as transformers computes it"
            assert "SGLang has no model for RobertaForMaskedLM" in found["RobertaForMaskedLM"]
            assert "runs XLMRobertaModel as an embedding model" in found["XLMRobertaModel"]
        assert_healthy(diagnose(job.state()))


def test_replicas_take_a_step_of_data_parallel_mezo_together() -> None:
    with launch_ranks(JOB, 4, env=SLOW, args=["replicas"]) as job:
        job.wait_step("gate end", range(4), 2 * IMPORT_S)
        found = [said(job, rank) for rank in range(4)]
        for rank, one in enumerate(found):
            first = rank // 2 * 2
            assert one["world"] == one["tp"] == [first, first + 1]
            assert one["pp"] == [rank]
            assert one["mean"] == found[0]["mean"]
        assert found[0]["own"] != found[2]["own"], "each replica has its own data"
        assert abs(sum(one["own"] for one in found) / 4 - found[0]["mean"]) < 1e-4
        assert found[0]["own"] == found[1]["own"], "the ranks of a replica see the same logits"
        assert_healthy(diagnose(job.state()))
