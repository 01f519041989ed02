"""`attach --hosts` on a job without distwatch on two machines: one verdict, and nothing is left on the other one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.journals.run_state import load_state
from distwatch.runfolder import RunFolder
from tests.scenarios.test_nodes import Nodes, nodes
from tests.scenarios.test_up import UNLINKED, keepers_of, run_up
from tests.support.leftovers import own_pid, wait_gone
from tests.support.links import observers_of
from tests.support.machines import Machine
from tests.support.ranks import REPOSITORY
from tests.support.ssh import ssh_servers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
BARE = {**UNLINKED, "DISTWATCH": "0"}
SITE = next(path for path in sys.path if path.endswith("site-packages"))
INSTALLED = (
    f"{REPOSITORY}/distwatch",
    f"{SITE}/msgspec",
    f"{SITE}/psutil",
    f"{SITE}/zmq",
    f"{SITE}/pyzmq.libs",
    os.path.join(os.path.dirname(sys.executable), "py-spy"),
)


def pid_there(job: Nodes, rank: int) -> int:
    """A rank's pid on its own machine."""
    pid = job.jobs[rank].launched[0].pid
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own_pid(int(below[0]) if below else pid)


def hide(host: Machine, empty: Path) -> None:
    """From now on distwatch is not installed on that machine, nor what it needs."""
    for path in INSTALLED:
        cover = empty / os.path.basename(path)
        cover.mkdir(parents=True) if os.path.isdir(path) else cover.touch()
        host.run("mount", "--bind", str(cover), path)
    for module in ("distwatch.observer", "msgspec._core", "psutil._common", "zmq.asyncio"):
        tried = subprocess.run(
            host.command([sys.executable, "-c", f"import {module}"]),
            capture_output=True,
            check=False,
        )
        assert b"ModuleNotFoundError" in tried.stderr, module


def attach(job: Nodes, shell: str) -> subprocess.CompletedProcess[str]:
    command = [
        *("env", f"PYTHONPATH={REPOSITORY}", f"DISTWATCH_DIR={job.root.root}", "COLUMNS=200"),
        *(sys.executable, "-m", "distwatch.cli", "attach", "--once", str(pid_there(job, 0))),
        *("--hosts", "node[2]", "--shell", f"{shell} {{host}}"),
    ]
    return subprocess.run(
        job.hosts[0].command(command), capture_output=True, text=True, timeout=120, check=False
    )


def left_over(host: Machine) -> list[str]:
    return [
        line
        for line in host.run("ps", "-eo", "args").splitlines()
        if "distwatch" in line and "ps -eo" not in line
    ]


def test_hosts_that_never_heard_of_distwatch_make_one_verdict(tmp_path: Path) -> None:
    there = tmp_path / "so-deep-that-no-path-of-a-socket-in-it-fits-the-limit-of-the-system"
    there.mkdir()
    with nodes(2) as job:
        job.launch("after_the_gate", env=BARE)
        for rank in range(2):
            job.jobs[rank].wait_step("gate reduce", {rank})
        job.jobs[0].open_gate("reduce", 0)
        job.jobs[0].wait_step("reducing", {0})
        other = job.hosts[1]
        session = {"DISTWATCH_DIR": job.jobs[1].root, "TMPDIR": str(there)}
        with ssh_servers(tmp_path, {other: session}) as shell:
            installed = attach(job, shell)
            hide(other, tmp_path / "nothing")
            brought = attach(job, shell)
        for seen in (installed, brought):
            assert seen.returncode == 3, seen.stdout + seen.stderr
            screen = " ".join(seen.stdout.split())
            assert "2/2 ranks observed" in screen, seen.stdout
            assert "rank 1" in screen.split("→")[0], seen.stdout
            assert "after_the_gate.py" in screen, seen.stdout
            assert not left_over(job.hosts[0])
            assert not left_over(other)
        assert not list(there.iterdir())
        job.jobs[1].open_gate("reduce", 1)
        for one in job.jobs:
            assert one.wait_ended() == [0]


def test_up_on_a_job_that_never_heard_of_distwatch(tmp_path: Path) -> None:
    with nodes(2) as job:
        job.launch("after_the_gate", env=BARE)
        for rank in range(2):
            job.jobs[rank].wait_step("gate reduce", {rank})
        job.jobs[0].open_gate("reduce", 0)
        job.jobs[0].wait_step("reducing", {0})
        with ssh_servers(tmp_path, {job.hosts[1]: {"DISTWATCH_DIR": job.jobs[1].root}}) as shell:
            done = run_up(job, shell, "--run", str(pid_there(job, 0)), hosts="node2")
            assert done.returncode == 0, done.stderr
            rows = json.loads(done.stdout)["hosts"]
            assert [row["told"].split()[0] for row in rows] == ["root", "leaf"]
        (folder,) = Path(job.root.root).glob("attached-node1-*")
        wait_until(lambda: blamed_in(folder) == {1})
        keepers = keepers_of(job)
        assert len(keepers) == 2
        job.jobs[1].open_gate("reduce", 1)
        for one in job.jobs:
            assert one.wait_ended() == [0]
        for pid in (*keepers, *observers_of(job.root.root), *observers_of(job.jobs[1].root)):
            assert wait_gone(pid, 60)


def blamed_in(folder: Path) -> set[int]:
    """Whom the run's verdict blames for a hang."""
    findings = diagnose(load_state(RunFolder(str(folder))))
    return {rank for f in findings if f.blocks and f.role == "root" for rank in f.culprit_ranks}
