"""A load that waits in a read is ended by InitTimeout at its deadline, whoever has named the deadline."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.scenarios.test_parallel_states import double
from tests.support.ranks import Job, launch_ranks
from tests.support.verdicts import assert_healthy

pytestmark = pytest.mark.timeout(240)
PARTS = (
    "ServerArgs", "ModelConfig", "architecture", "weights", "KV cache", "memory pool", "attention backend",
    "CUDA graphs",
)  # fmt: skip
LATE = "ModelRunner({model}): {phase} did not finish within 3 s, at load_deadlines.py:"


def told(job: Job) -> dict[str, dict[str, Any]]:
    job.wait_step("gate start", {0})
    job.wait_ticks(1)  # the observer is there
    job.open_gate("start", 0)
    job.wait_step("told", {0}, 120)
    read: dict[str, dict[str, Any]] = json.loads((job.work / "told.json").read_text())
    return read


def test_every_part_of_a_runners_start_is_named_in_the_process_and_by_the_observer() -> None:
    env = double("sglang 0.5.23", DISTWATCH_DEADLINES="init=100,group=100,load=100,collective=100")
    with launch_ranks("load_deadlines", 1, env=env, args=["parts"]) as job:
        found = told(job)
        assert set(found) == set(PARTS)
        for phase, error in found.items():
            late = LATE.format(model=job.work / "model", phase=phase)
            assert error["message"].startswith(late), phase
            assert error["step"] == phase
            assert (error["code"], error["missing"]) == ("load.stalled", [0])
            assert f"phase {phase}" in error["summary"]
            assert late in job.output() or phase == "ServerArgs", "its output is cut at the front"
        assert_healthy(diagnose(job.state()))


def test_the_setting_and_the_argument_give_the_same_error_on_every_path() -> None:
    limits = "init=100,group=100,load=3,collective=100"
    env = double("sglang 0.5.23", DISTWATCH_DEADLINES=limits, DISTWATCH_ON_HANG="raise")
    with launch_ranks("load_deadlines", 1, env=env, args=["paths"]) as job:
        found = told(job)
        late = LATE.format(model=job.work / "model", phase="weights")
        for path in ("named", "setting", "itself"):
            assert found[path]["message"] == found["named"]["message"], path
            assert found[path]["message"].startswith(late)
        load = found["distwatch.load"]
        assert (
            f"distwatch.load({job.work / 'model'}): distwatch.load did not finish"
            in (load["message"])
        )
        assert {error["code"] for error in found.values()} == {"load.stalled"}
        assert_healthy(diagnose(job.state()))
