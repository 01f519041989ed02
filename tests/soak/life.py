"""A job that forks, restarts, fills its disk, loses observers and links, and has its clock set: again and again.

Each round is a real torchrun job with one trouble. It must end as it would without distwatch, nobody
may be blamed for what is no fault, and at the end nothing is left: no process, no memory, no open file.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.soak.command import main
from tests.support.leftovers import processes_of, wait_gone
from tests.support.links import observers_of
from tests.support.ranks import JOBS, Job, empty_job, free_port

TROUBLES = ("none", "forks", "restarts", "clock", "observer", "link", "disk")
DISK_BYTES = 2 << 20
OBSERVER_LEAVES_S = 90.0
TOKEN = "0123456789abcdef0123456789abcdef"


def run(rounds: int, seed: int = 0) -> str:
    """Figures of that many rounds.

    Raises:
        AssertionError: a job ended otherwise, somebody was blamed, or something was left.
    """
    random, begin = Random(seed), time.monotonic()
    files = len(os.listdir("/proc/self/fd"))
    counts = dict.fromkeys(TROUBLES, 0)
    for number in range(rounds):
        trouble = TROUBLES[number % len(TROUBLES)]
        counts[trouble] += 1
        _round(trouble, random)
    left = len(os.listdir("/proc/self/fd")) - files
    assert left <= 0, f"{left} descriptors are left open"
    told = ", ".join(f"{count} × {trouble}" for trouble, count in counts.items())
    return f"{rounds} jobs ({told}), nothing left, {time.monotonic() - begin:.0f} s"


def _round(trouble: str, random: Random) -> None:
    env = {"DISTWATCH_DEADLINES": "init=60,group=60,load=60,collective=60"}
    if trouble == "link":
        env |= {"DISTWATCH_OBSERVER": "127.0.0.1:29611", "DISTWATCH_TOKEN": TOKEN}
    with empty_job() as job:
        if trouble == "restarts":
            # Torch 2.13's own restart within a launch often does not form a gloo world again.
            _launch(job, trouble, env)
            assert job.wait_ended() == [1]
        _launch(job, trouble, env)
        job.wait_step("begun", {0, 1})
        if trouble in ("observer", "link"):
            _kill_observers(job, random)
        if trouble == "disk":
            _fill(job)
        codes = job.wait_ended()[-1:]
        assert codes == [0], f"{trouble}: exit codes {codes}\n{job.output()}"
        for pid in processes_of(job.root):
            assert wait_gone(pid, OBSERVER_LEAVES_S), f"{trouble}: process {pid} is left"
        blamed = [finding for finding in job.judged_blocking() if trouble != "restarts"]
        assert not blamed, f"{trouble}: {blamed[0].summary}"
        if trouble in ("observer", "link"):
            _clean(job)  # as the next observer of this user does it
        _require_empty(job)


def _launch(job: Job, trouble: str, env: dict[str, str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    script = str(JOBS / "lively.py")
    job.start([*launcher, f"--master-port={free_port()}", script, trouble], env, "torchrun.log")


def _kill_observers(job: Job, random: Random) -> None:
    for _ in range(3):
        for pid in observers_of(job.root):
            os.kill(pid, signal.SIGKILL)
        time.sleep(random.uniform(0.1, 0.6))


def _fill(job: Job) -> None:
    """The run's disk is full from now on: a limit on the observers' files is as good as one, for them."""
    for pid in observers_of(job.root):
        command = ["prlimit", f"--pid={pid}", f"--fsize={DISK_BYTES // 64}"]
        subprocess.run(command, check=True, capture_output=True, timeout=20)


def _require_empty(job: Job) -> None:
    of_job = Path(job.folder.volatile).parent
    left = [str(path) for path in of_job.rglob("*") if path.is_file()]
    assert not left, f"rings are left in memory: {left}"
    shutil.rmtree(of_job, ignore_errors=True)


def _clean(job: Job) -> None:
    command = [sys.executable, "-m", "distwatch.cli", "clean", "--dir", job.root]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main("A job's life", run, 84)
