"""`distwatch up --ray` on a cluster of four nodes: one view, whatever fails meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.ray import HOOK
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.ray.test_actors import STARTED_S, start
from tests.support.leftovers import processes_of, wait_gone
from tests.support.links import journals_of, links_of, observers_of
from tests.support.ranks import REPOSITORY, RUN_ID, Job, empty_job, free_port

CLUSTER = Path(__file__).parent / "jobs" / "cluster.py"
STUCK = ("collective.rank_missing", "process.data_stall")
QUICK = "init=60,group=60,load=60,collective=6"

pytestmark = pytest.mark.timeout(400)


class Nodes:
    """A cluster, and the job in it: one rank on each of its nodes, node1 the head."""

    def __init__(self, job: Job, count: int) -> None:
        self.job = job
        self.count = count
        self.address = (job.work / "address").read_text()
        self.job.folder = self.folder(1)  # the run actor is on the head node

    def root_of(self, number: int) -> str:
        return f"{self.job.root}/node{number}"

    def folder(self, number: int) -> RunFolder:
        return RunFolder(f"{self.root_of(number)}/{RUN_ID}")

    def distwatch(self, *arguments: str, on: int | None = None) -> subprocess.CompletedProcess[str]:
        """The command line, on a node or, without one, on a machine that knows none of it."""
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "disabled",
            "DISTWATCH_DIR": self.root_of(on) if on else f"{self.job.root}/elsewhere",
            **({"DISTWATCH_HOST": f"node{on}"} if on else {}),
        }
        return subprocess.run(
            [sys.executable, "-m", "distwatch", *arguments],
            env=env, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip

    def up(self) -> dict[str, dict[str, Any]]:
        """`distwatch up`; the rows of the nodes that live, by their names."""
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"}
        command = ["up", "--ray", "--address", self.address, "-o", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "distwatch", *command],
            env=env, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        table = json.loads(done.stdout)
        return {row["host"]: row for row in table["nodes"] if row["alive"]}

    def wait_linked(self) -> RunState:
        others = {f"node{number}" for number in range(2, self.count + 1)}

        def linked(state: RunState) -> bool:
            return {name for name, is_up in links_of(state).items() if is_up} == others

        return self.job.wait_state(linked)


@contextlib.contextmanager
def nodes(count: int, *methods: str, **given: str) -> Iterator[Nodes]:
    with empty_job() as job:
        env = {"RAY_RUNTIME_ENV_HOOK": HOOK, "DISTWATCH_DEADLINES": QUICK, **given}
        start(job, [str(CLUSTER), str(count), *methods], env)
        job.wait_step("cluster up", {0}, STARTED_S)
        yield Nodes(job, count)
        job.kill_everything(observer=True)  # Ray's own way of ending takes seconds


def actor_of(job: Job, kind: str) -> int:
    """The pid of the one actor of that class."""
    (pid,) = [
        pid
        for pid in processes_of(job.root)
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"ray::{kind}".encode())
    ]
    return pid


def assert_seen_from_everywhere(cluster: Nodes) -> None:
    """From nodes without the root, by the cluster and by the run; from a machine without any."""
    for seen in (
        cluster.distwatch("attach", "--once", "ray://", on=3),
        cluster.distwatch("attach", "--once", RUN_ID, on=4),
        cluster.distwatch("attach", "--once", f"ray://{cluster.address}"),
    ):
        assert seen.returncode == 3, seen.stderr
        assert "4/4 ranks observed" in seen.stdout
        assert "rank 1" in seen.stdout


def assert_outlives_its_makers(cluster: Nodes) -> None:
    """A node's actor that stops and a run actor that is killed take nothing from the view."""
    job, stopped = cluster.job, cluster.up()["node2"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    killed = actor_of(job, "RunActor")
    os.kill(killed, signal.SIGKILL)
    assert wait_gone(killed, 60)
    job.wait_ticks(2)
    assert host_count(job.state()) == (4, 4)
    # A root that is killed comes again, at the place that the leaves know.
    (root,) = observers_of(cluster.root_of(1))
    os.kill(root, signal.SIGKILL)

    def began_anew(state: RunState) -> bool:
        told = [e.event for e in state.timeline if isinstance(e.event, ev.LinkChanged)]
        lost = {change.peer for change in told if "was restarted" in change.why}
        return lost == {"node2", "node3", "node4"} and not unseen_hosts(state)

    job.wait_state(began_anew)
    job.wait_verdict(STUCK, {1}, mentions=("sum_twice",))
    os.kill(stopped, signal.SIGCONT)
    assert set(cluster.up()) == {"node1", "node2", "node3", "node4"}


def assert_nothing_is_lost(cluster: Nodes) -> None:
    """Actors and ranks end all at once; what was recorded is on the root's node, too."""
    job = cluster.job
    observers = observers_of(job.root)
    assert len(observers) == 4
    for pid in set(processes_of(job.root)) - set(observers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in observers:
        assert wait_gone(pid, 60), f"the observer, pid {pid}, is still there"
    for number in range(2, 5):
        at_home = journals_of(cluster.folder(number), f"node{number}")
        assert at_home
        assert journals_of(cluster.folder(1), f"node{number}") == at_home


def nothing_blocks(state: RunState) -> bool:
    return not any(finding.blocks for finding in state.recorded_findings)


def test_one_view_of_four_nodes_outlives_what_made_it() -> None:
    with nodes(4, *["sum_twice"] * 4) as cluster:
        job = cluster.job
        assert set(cluster.up()) == {"node1", "node2", "node3", "node4"}
        job.open_gate("job", 0)
        finding = job.wait_verdict(STUCK, {1}, mentions=("sum_twice", "node2"), timeout_s=STARTED_S)
        assert set(finding.waiting_ranks) == {0, 2, 3}
        assert host_count(cluster.wait_linked()) == (4, 4)
        assert {row["runs"][RUN_ID].split()[0] for row in cluster.up().values()} == {"root", "leaf"}
        assert_seen_from_everywhere(cluster)
        assert_outlives_its_makers(cluster)
        job.open_gate("before the second", 1)
        job.wait_step("job over", {0})
        job.wait_state(nothing_blocks)
        assert_nothing_is_lost(cluster)


def test_a_node_that_joins_is_seen_and_one_that_dies_is_missed() -> None:
    """Rank 3's actor asks for a node that is not there yet; later rank 2's node is lost."""
    settings = {"MASTER_PORT": str(free_port()), "DISTWATCH_DEADLINES": "init=10,collective=100"}
    with nodes(3, *["form_and_reduce"] * 4, **settings) as cluster:
        job = cluster.job
        cluster.up()
        job.open_gate("job", 0)
        finding = job.wait_verdict(
            "rendezvous.rank_never_started", {3}, mentions=("node4",), timeout_s=STARTED_S
        )
        assert set(finding.waiting_ranks) <= {0, 1, 2}

        job.open_gate("another node", 0)
        job.wait_step("gate reduce", {0, 1, 2, 3}, STARTED_S)
        cluster.count = 4
        state = cluster.wait_linked()
        assert host_count(state) == (4, 4)
        assert set(cluster.up()) == {"node1", "node2", "node3", "node4"}

        job.wait_state(nothing_blocks)
        for rank in (0, 1, 3):
            job.open_gate("reduce", rank)
        lost = processes_of(cluster.root_of(3))
        for pid in lost:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        def node3_is_missed(state: RunState) -> bool:
            return set(unseen_hosts(state)) == {"node3"}

        state = job.wait_state(node3_is_missed)
        assert host_count(state) == (3, 4)
        # Its word, that a node is dead, comes from Ray alone: no observer is left there.
        finding = job.wait_verdict("process.exited", {2}, mentions=("node",), timeout_s=STARTED_S)
        assert not set(finding.waiting_ranks) & {2}
        rows = cluster.up()
        assert set(rows) == {"node1", "node2", "node4"}
        assert_ends_for_good(cluster, rows["node2"]["pid"])


def assert_ends_for_good(cluster: Nodes, late: int) -> None:
    """A node's actor, of that pid, that hears late that all is over places nothing again."""
    os.kill(late, signal.SIGSTOP)
    stopped = cluster.distwatch("up", "--ray", "--stop", "--address", cluster.address)
    assert stopped.returncode == 0, stopped.stderr
    os.kill(late, signal.SIGCONT)
    assert wait_gone(late, 60)
    again = cluster.distwatch("up", "--ray", "--stop", "--address", cluster.address)
    assert again.returncode == 5, again.stderr
