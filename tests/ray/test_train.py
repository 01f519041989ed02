"""Ray Train where no environment variable turns distwatch on: one line in the user's function does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from tests.ray.test_actors import start
from tests.support.ranks import empty_job

RAY_TRAIN = Path(__file__).parent / "jobs" / "ray_train.py"
STARTED_S = 300.0
"""Ray Train makes eight processes before the first step, and new workers after a failure."""


@pytest.mark.timeout(STARTED_S + 30)
def test_ray_train_starts_a_worker_again_that_hung_and_the_job_trains_on() -> None:
    env = {
        "DISTWATCH": "",
        "DISTWATCH_RUN_ID": "",
        "DISTWATCH_ON_HANG": "abort",
        "DISTWATCH_DEADLINES": "init=60,group=60,load=60,collective=4",
    }
    with empty_job() as job:
        start(job, [str(RAY_TRAIN)], env)
        try:
            job.wait_step("trained", {0, 1}, timeout_s=STARTED_S)
            # The restarted workers may be in a run of their own: of the first ones none is left.
            name = min(name for name in os.listdir(job.root) if name.startswith("ray-01000000-"))
            job.folder = RunFolder(os.path.join(job.root, name))
            report = json.loads(Path(job.folder.incidents, "1", "report.json").read_text())
            root = report["findings"][0]
            assert (root["severity"], root["culprit_ranks"]) == ("hang", [1])
            # The place is that of the user's function, which runs in a thread of Ray Train's.
            assert "ray_train.py" in root["summary"]
            assert "rank 1 at step 2" in root["summary"]
            orders = [e.event for e in job.state().timeline if isinstance(e.event, ev.RankAborted)]
            assert {order.global_rank for order in orders} == {1}
        finally:
            job.kill_everything(observer=True)
