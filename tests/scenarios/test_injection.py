"""`attach --inject` on a bare job: the recorder's numbers decide what stacks cannot, and the agent stays or leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.observer.journals.run_state import load_state
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder, host_name
from distwatch.settings import read_settings
from tests.support.leftovers import wait_gone
from tests.support.ranks import DEADLINES, Job, launch_ranks
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
OWN_S = read_settings({"DISTWATCH_DEADLINES": DEADLINES}).deadlines["collective"]
NUMBERED = "all_reduce #2 in default_pg"


def attach(job: Job, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distwatch.cli", "attach", "--once", *options]
    return subprocess.run(
        [*command, str(job.launched[0].pid)],
        env={**os.environ, "DISTWATCH_DIR": job.root, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def attached(job: Job) -> list[RunFolder]:
    """The runs that attach made, the newest last."""
    paths = sorted(Path(job.root).glob("attached-*"), key=os.path.getmtime)
    return [RunFolder(str(path)) for path in paths]


def own_deadlines_hold(folder: RunFolder) -> bool:
    """Whether every agent knows that nobody is attached any more: the job's own deadlines hold then."""
    agents = [p.started for p in load_state(folder).processes.values() if p.started is not None]
    own = [agent.deadlines["collective"] == OWN_S and not agent.attached for agent in agents]
    return own == [True, True]


def test_numbers_decide_and_the_agent_leaves_or_stays() -> None:
    with launch_ranks(
        "different_operations", 2, without_distwatch=(0, 1), args=("swapped",)
    ) as job:
        job.wait_step("initialized", {0, 1})
        bare = attach(job)
        assert bare.returncode == 3
        assert NUMBERED not in bare.stdout

        for_a_while = attach(job, "--inject", "--dump-only")
        assert for_a_while.returncode == 3, for_a_while.stderr
        assert NUMBERED in for_a_while.stdout, for_a_while.stdout
        assert "takes a dump and leaves again" in for_a_while.stderr
        for process in job.launched:
            assert job.root not in Path(f"/proc/{process.pid}/maps").read_text()
            names = [p.read_text() for p in Path(f"/proc/{process.pid}/task").glob("*/comm")]
            assert "distwatch\n" not in names

        for_good = attach(job, "--inject")
        assert for_good.returncode == 3, for_good.stderr
        assert NUMBERED in for_good.stdout, for_good.stdout
        newest = attached(job)[-1]
        wait_until(lambda: own_deadlines_hold(newest))
        observer = lock_holder(newest)
        for process in job.launched:
            assert list(Path(newest.volatile).glob(f"{host_name()}-{process.pid}*.sock"))
        for process in job.launched:
            process.kill()
            process.wait()
        assert not observer or wait_gone(observer, 60), "who looks on must end with the job"
        assert "distwatch:" not in job.output()


def test_it_goes_with_a_job_that_has_no_distwatch() -> None:
    with launch_ranks("different_operations", 2, args=("swapped",)) as job:
        job.wait_step("initialized", {0, 1})
        done = attach(job, "--inject")
        assert done.returncode == 2
        assert "not a job that runs here without distwatch" in done.stderr
        assert attach(job, "--dump-only").returncode == 2
