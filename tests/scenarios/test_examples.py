"""The examples do what their pages say: they end well, and their failure gets its verdict."""

from __future__ import annotations

import sys

from tests.cli.runs import distwatch
from tests.support.ranks import REPOSITORY, empty_job, free_port
from tests.support.verdicts import assert_healthy

SYNC = REPOSITORY / "examples" / "weight_sync"


def torchrun_example(*arguments: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3"]
    return [*launcher, f"--master-port={free_port()}", str(SYNC / "sync.py"), *arguments]


def test_weights_reach_every_engine() -> None:
    with empty_job() as job:
        job.start(torchrun_example(), {"SYNC_PORT": str(free_port())}, "sync.log")
        assert job.wait_ended() == [0]
        assert job.output("sync.log").count("has 3 tensors") == 3
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())


def test_an_engine_that_does_not_come_to_the_next_tensor() -> None:
    with empty_job() as job:
        job.start(torchrun_example("--stall"), {"SYNC_PORT": str(free_port())}, "sync.log")
        found = job.wait_verdict("collective.rank_missing", {2}, mentions=("load_tensor",))
        assert "rank 2 never entered collective #3 of group 'weight_update'" in found.summary


def test_the_plan_shows_the_converters_other_sizes() -> None:
    told = distwatch("check", str(SYNC / "plan.yaml")).stdout
    assert "than actor.model loads them with: tensor 2 and 4" in told
