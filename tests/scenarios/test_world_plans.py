"""Ranks that plan different worlds: named at once, in hook mode and by `initialize`."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, free_port, launch_ranks
from tests.support.verdicts import assert_healthy, assert_verdict

PATIENCE = {"DISTWATCH_DEADLINES": PATIENT}
"""Disagreements are known long before any deadline."""
Each = Mapping[int, Mapping[str, str]]

WORLD_SIZE = "rendezvous.world_size_disagrees"
DUPLICATED = "rendezvous.rank_duplicated"
RANGE = "rendezvous.rank_out_of_range"
ENDPOINT = "rendezvous.endpoint_disagrees"
CONFIG = "rendezvous.config_disagrees"

DISAGREEMENTS = {
    "world size, a tie": ([0, 1], {0: {"WORLD_SIZE": "3"}, 1: {"WORLD_SIZE": "2"}}, WORLD_SIZE, {1}),
    "world size, rank 0 alone": ([0, 1, 2], {0: {"WORLD_SIZE": "2"}}, WORLD_SIZE, {0}),
    "one rank twice": ([0, 1, 1], {}, DUPLICATED, {1}),
    "rank beyond the world": ([0, 5], {0: {"WORLD_SIZE": "2"}, 5: {"WORLD_SIZE": "2"}}, RANGE, {5}),
    "rank 1 of a world of one": ([1], {1: {"WORLD_SIZE": "1"}}, RANGE, {1}),
    "detail on one rank": ([0, 1, 2], {1: {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}}, CONFIG, {1}),
}  # fmt: skip


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_seen_by_the_hook(name: str) -> None:
    ranks, each, code, culprits = DISAGREEMENTS[name]
    env = {"DISTWATCH_DEADLINES": "init=100,group=100,load=100,collective=4"}
    with launch_ranks(
        "forms", 3, ranks=ranks, env_of=each, env=env, args=["wait_at_the_end"]
    ) as job:
        job.wait_verdict(code, culprits)


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_refused_by_initialize(name: str) -> None:
    ranks, each, code, culprits = DISAGREEMENTS[name]
    env = {**PATIENCE, "TEST_HOW": "initialize"}
    with launch_ranks(
        "forms", 3, ranks=ranks, env_of=each, env=env, args=["wait_at_the_end"]
    ) as job:
        failing = set(ranks) if code != RANGE else culprits
        for outcome in outcomes_of(job, failing).values():
            assert outcome["type"] == "InitFailed"
            assert outcome["code"] == code
            if name != "world size, rank 0 alone":
                # While only two have come, nobody can know which of them is the odd one.
                assert set(outcome["culprits"]) == culprits
        job.wait_verdict(code, culprits)


def test_another_port_on_one_rank() -> None:
    each = {2: {"MASTER_PORT": str(free_port())}}
    with launch_ranks("forms", 3, env_of=each, args=["wait_at_the_end"]) as job:
        job.wait_verdict(ENDPOINT, {2})


def warnings_of(state: RunState) -> list[Finding]:
    return [finding for finding in diagnose(state) if finding.severity == "warning"]


@pytest.mark.parametrize("how", ["torch", "initialize"])
def test_timeouts_that_differ_are_a_warning(how: str) -> None:
    env = {**PATIENCE, "TEST_HOW": how}
    each = {1: {"TEST_TIMEOUT": "90"}}
    with launch_ranks("forms", 3, env=env, env_of=each, args=["wait_at_the_end"]) as job:
        job.wait_step("gate end", {0, 1, 2})

        def warned(state: RunState) -> bool:
            return bool(warnings_of(state))

        (finding,) = warnings_of(job.wait_state(warned))
        assert (finding.code, finding.culprit_ranks) == (CONFIG, (1,))
        assert "timeout" in finding.summary
        assert_healthy(job.judged_blocking())


def test_mesh_sizes_that_differ_are_refused_before_any_group_is_built() -> None:
    env = {
        **PATIENCE,
        "TEST_HOW": "initialize",
        "TEST_ARGUMENTS": '{"framework": "mesh", "tensor": 2}',
    }
    each = {3: {"TEST_ARGUMENTS": '{"framework": "mesh", "tensor": 4}'}}
    with launch_ranks("forms", 4, env=env, env_of=each, args=["wait_at_the_end"]) as job:
        codes = {outcome["code"] for outcome in outcomes_of(job, {0, 1, 2, 3}).values()}
        assert codes == {"group.layout_disagrees"}


def test_several_small_worlds_where_one_was_launched() -> None:
    each = {
        rank: {"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": str(rank), "SLURM_NTASKS": "3",
               "SLURM_LOCALID": str(rank), "MASTER_PORT": str(free_port())}
        for rank in range(3)
    }  # fmt: skip
    with launch_ranks("forms", 1, ranks=[0, 1, 2], env_of=each, args=["stay_for_ever"]) as job:

        def told_of_all(state: RunState) -> bool:
            return any("3 small worlds" in finding.summary for finding in warnings_of(state))

        findings = diagnose(job.wait_state(told_of_all))
        assert_verdict(findings, code=ENDPOINT, culprits=set())
