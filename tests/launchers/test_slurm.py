"""A real Slurm on two machines: `attach --slurm`, the template for sbatch, prolog and epilog, arrays and requeue."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines import INTERFACE
from tests.support.ranks import JOBS, REPOSITORY, Job, empty_job
from tests.support.slurm import SlurmCluster, settle, slurm_cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
CONTRIB = REPOSITORY / "contrib" / "slurm"
OWN_FOLDER = 'echo "export DISTWATCH_DIR={folder}/runs/$SLURMD_NODENAME"\n'
"""The machines share a disk here, which real ones do not."""
RANKS = """
echo "export RANK=$SLURM_PROCID"
echo "export WORLD_SIZE=$SLURM_NTASKS"
"""
QUICK = "init=60,group=60,load=60,collective=4"
GATED = str(JOBS / "after_the_gate.py")


@contextlib.contextmanager
def hung(cluster: SlurmCluster, *command: str, **env: str) -> Iterator[Job]:
    """A job of two nodes whose rank 1 does not come to the collective that rank 0 waits in."""
    with empty_job() as job:
        job.start(cluster.hosts[0].command(command), environment(cluster, **env), "launcher.log")
        for rank in range(2):
            job.wait_step("gate reduce", {rank})
        job.open_gate("reduce", 0)
        job.wait_step("reducing", {0})
        yield job


def environment(cluster: SlurmCluster, **more: str) -> dict[str, str]:
    return cluster.environment(
        {
            "MASTER_ADDR": cluster.hosts[0].name,
            "MASTER_PORT": "29555",
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "DISTWATCH_RUN_ID": "",
            "DISTWATCH_DEADLINES": QUICK,
            **more,
        }
    )


def attach(cluster: SlurmCluster, word: str) -> tuple[int, str]:
    done = cluster.call(
        "distwatch", "attach", "--slurm", word, "--once",
        env={"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def judged(cluster: SlurmCluster, word: str) -> str:
    """The screen once a deadline has passed: a job with distwatch in it has its own."""
    until = time.monotonic() + 60
    while True:
        code, screen = attach(cluster, word)
        if code == 3:
            return screen
        assert time.monotonic() < until, screen


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    prolog = (CONTRIB / "task-prolog.sh").read_text() + OWN_FOLDER + RANKS
    epilog = (CONTRIB / "epilog.sh").read_text()
    places = {
        "/opt/distwatch/bin/distwatch": str(Path(sys.executable).parent / "distwatch"),
        "/tmp/distwatch-$SLURM_JOB_UID": "{folder}/runs/$SLURMD_NODENAME",
        "/var/spool/distwatch": "{folder}/reports",
    }
    for theirs, ours in places.items():
        assert theirs in epilog
        epilog = epilog.replace(theirs, ours)
    with slurm_cluster(2, task_prolog=prolog, epilog=epilog) as made:
        (made.folder / "reports").mkdir()
        yield made


@pytest.fixture(autouse=True)
def nothing_runs_on(cluster: SlurmCluster) -> Iterator[None]:
    yield
    settle(cluster)


def newest_job(cluster: SlurmCluster) -> str:
    return max(cluster.ask("squeue", "--noheader", "--format=%A").split(), key=int)


def submit(cluster: SlurmCluster, *arguments: str, **env: str) -> str:
    """The number of a job that is submitted."""
    done = cluster.call("sbatch", "--parsable", *arguments, env=environment(cluster, **env))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def states_of(cluster: SlurmCluster, number: str) -> list[str]:
    """Of a job, or of each task of an array."""
    return cluster.ask("squeue", "--noheader", "--array", f"--jobs={number}", "--format=%t").split()


def runs_on(cluster: SlurmCluster, node: str) -> list[str]:
    return sorted(path.name for path in (cluster.folder / "runs" / node).glob("slurm-*"))


def test_a_job_without_distwatch_is_judged_from_its_number(cluster: SlurmCluster) -> None:
    with hung(cluster, "srun", "-N2", "-n2", sys.executable, GATED, DISTWATCH="0") as job:
        number = newest_job(cluster)
        code, screen = attach(cluster, number)
        assert code == 3, screen
        assert "rank 1" in screen.split("→")[0], screen
        assert "2/2 ranks observed" in screen, screen
        assert "after_the_gate.py" in screen, screen
        code, screen = attach(cluster, f"{number}.7")
        assert (code, "no rank of job" in screen) == (5, True), screen
        job.open_gate("reduce", 1)
        assert job.wait_ended() == [0], job.output()


def test_prolog_and_epilog_need_nothing_of_the_job(cluster: SlurmCluster) -> None:
    with hung(cluster, "srun", "-N2", "-n2", sys.executable, GATED, DISTWATCH="") as job:
        number = newest_job(cluster)
        screen = judged(cluster, f"{number}.0")
        assert "rank 1" in screen.split("→")[0], screen
        assert f"slurm-{number}.0" in screen, screen
        assert "2/2 ranks observed" in screen, screen
        cluster.ask("scancel", number)
        assert job.wait_ended() != [0]
    report = cluster.folder / "reports" / f"slurm-{number}.0-node1.md"
    wait_until(report.exists, "the epilog keeps the report")
    assert "all_reduce" in report.read_text()


def test_the_template_makes_one_view_and_a_requeue_another_run(cluster: SlurmCluster) -> None:
    template = str(CONTRIB / "train.sbatch")
    with hung(cluster, "sbatch", "--wait", template, GATED, DISTWATCH=""):
        number = newest_job(cluster)
        screen = judged(cluster, number)
        assert "rank 1" in screen.split("→")[0], screen
        assert f"slurm-{number}.0" in screen, screen
        assert "2/2 ranks observed" in screen, screen
        cluster.ask("scontrol", "requeue", number)
        wait_until(lambda: states_of(cluster, number) == ["PD"], "it is in the queue again")
        cluster.ask("scontrol", "update", f"jobid={number}", "starttime=now")  # not in two minutes
        again = f"slurm-{number}.0~2"
        wait_until(lambda: again in runs_on(cluster, "node1"), "the requeued job is another run")
        cluster.ask("scancel", number)


def test_an_array_and_a_job_without_nodes_are_told_apart(cluster: SlurmCluster) -> None:
    array = submit(cluster, "--array=0-1", "--wrap", "sleep 1000")
    waiting = submit(cluster, "--begin=now+1hour", "--wrap", "true")

    wait_until(lambda: states_of(cluster, array) == ["R", "R"], "both tasks run")
    code, said = attach(cluster, array)
    assert (code, f"is an array: {array}_0, {array}_1 run" in said) == (2, True), said
    code, said = attach(cluster, f"{array}_1")
    assert (code, "no rank of job" in said) == (5, True), said
    code, said = attach(cluster, waiting)
    assert (code, "is PENDING (BeginTime): no process of it exists" in said) == (5, True), said
    code, said = attach(cluster, "999999")
    assert (code, "Slurm knows no job 999999" in said) == (5, True), said
