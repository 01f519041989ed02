"""The real source of neuronx-distributed, where DISTWATCH_NXD_SRC names a checkout of it.

On gloo in its own CPU mode. torch_xla is the real one where it is installed, else a stand-in.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import DEADLINES, JOBS, REPOSITORY, launch_ranks
from tests.support.verdicts import assert_healthy

SOURCE = os.environ.get("DISTWATCH_NXD_SRC", "")
if not Path(SOURCE, "src", "neuronx_distributed").is_dir():
    pytest.skip("DISTWATCH_NXD_SRC names no checkout of it", allow_module_level=True)

DOUBLES = REPOSITORY / "tests" / "doubles"
HAS_XLA = importlib.util.find_spec("torch_xla") is not None
STAND_INS = [DOUBLES / "neuron_runtime_stand_ins"] + (
    [] if HAS_XLA else [DOUBLES / "torch_xla_stand_in"]
)
ENV = {
    "DISTWATCH_NXD_SRC": SOURCE,
    "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, JOBS, *STAND_INS))),
    "NXD_CPU_MODE": "1",
    "PJRT_DEVICE": "CPU",
    "DISTWATCH_DEADLINES": DEADLINES.replace("=4", "=40"),
}


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 2), (1, 4), (2, 1)])
def test_initialize_reads_back_takes_down_and_builds_again(tensor: int, pipeline: int) -> None:
    env = {**ENV, "TEST_SIZES": json.dumps({"tensor": tensor, "pipeline": pipeline})}
    with launch_ranks("neuron_source", 4, env=env, args=["initialize"]) as job:
        job.wait_step("gate end", range(4), 100)
        for rank in range(4):
            said = json.loads((job.work / f"said-{rank}.json").read_text())
            mine = [r for r in range(4) if r // tensor == rank // tensor]
            assert said["groups"].get("tp", [rank]) == mine
            assert said["summed"] == sum(mine) + len(mine)
            assert "TENSOR_MODEL_PARALLEL_GROUP" in said["roles"]
            assert sorted(said["again"]["tp"]) == [0, 1, 2, 3]
        assert_healthy(diagnose(job.state()))


@pytest.mark.parametrize("how", ["too_early", "getter_too_early"])
def test_what_is_built_too_early_is_explained(how: str) -> None:
    with launch_ranks("neuron_source", 2, env=ENV, args=[how]) as job:
        finding = job.wait_verdict("group.not_initialized", {0, 1}, timeout_s=100)
        assert 'distwatch.initialize(framework="neuron"' in finding.advice


@pytest.mark.skipif(not HAS_XLA, reason="torch_xla is not installed here")
def test_on_xla_the_groups_are_read_by_neurons_own_lists() -> None:
    """Real torch_xla on a CPU: rendezvous and groups are real, collectives stay within the process."""
    env = {**ENV, "NXD_CPU_MODE": "0", "TEST_SIZES": json.dumps({"tensor": 2})}
    with launch_ranks("neuron_source", 2, env=env, args=["on_xla"]) as job:
        job.wait_step("gate end", {0, 1}, 100)
        for rank in (0, 1):
            said = json.loads((job.work / f"said-{rank}.json").read_text())
            assert said["groups"]["tp"] == [0, 1]
            assert "the first round trip gave 1, not 2" in said["refused"]
