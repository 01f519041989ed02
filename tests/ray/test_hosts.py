"""Ray on three machines of their own network: a cut link and a sick Ray, and what the view says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.ray import HOOK
from distwatch.state.model import RunState
from tests.ray.test_actors import STARTED_S
from tests.ray.test_up import QUICK, STUCK
from tests.scenarios.test_racks import below
from tests.support.leftovers import processes_of
from tests.support.machines import INTERFACE, Machine, machines
from tests.support.ranks import JOBS, REPOSITORY, Job, empty_job

HERE = Path(__file__).parent / "jobs"
PORT = 6379
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, JOBS, HERE))),
    "GLOO_SOCKET_IFNAME": INTERFACE,
}
EVERYTHING = """
add table inet cut
add chain inet cut input { type filter hook input priority 0; policy drop; }
add chain inet cut output { type filter hook output priority 0; policy drop; }
"""
LISTENS = """
import socket, sys, time
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
        break
    except OSError:
        time.sleep(0.05)
"""

pytestmark = pytest.mark.timeout(300)


class Hosts:
    """Machines with a Ray node each, the head on the first; a job of one rank on each."""

    def __init__(self, machines: list[Machine], jobs: list[Job], racks: Mapping[str, str]) -> None:
        self.machines = machines
        self.jobs = jobs
        self.racks = racks
        self.address = f"{machines[0].address}:{PORT}"

    @property
    def root(self) -> Job:
        return self.jobs[0]

    def start_ray(self) -> None:
        session = self.root.work / "ray"
        session.mkdir()
        head, *others = zip(self.machines, self.jobs, strict=True)
        self._start_node(*head, "--head", f"--port={PORT}", f"--temp-dir={session}",
                         "--include-dashboard=false")  # fmt: skip
        self.machines[0].run(sys.executable, "-c", LISTENS, self.machines[0].address, str(PORT))
        for machine, job in others:
            # Nodes of one cluster name their sockets alike: each machine has a folder of its own.
            machine.run("mount", "-t", "tmpfs", "tmpfs", str(session))
            self._start_node(machine, job, f"--address={self.address}")

    def _start_node(self, machine: Machine, job: Job, *options: str) -> None:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"),
            *("--object-store-memory=80000000", f"--node-ip-address={machine.address}", *options),
        ]
        off = {"DISTWATCH": "", "DISTWATCH_RUN_ID": ""}
        rack = {"DISTWATCH_RACK": self.racks.get(machine.name, "")}
        job.start(machine.command(command), {**RAY, **off, **rack}, "ray.log")

    def start_job(self, *methods: str) -> None:
        settings = {**RAY, "RAY_RUNTIME_ENV_HOOK": HOOK, "DISTWATCH_DEADLINES": QUICK}
        driver = [sys.executable, str(HERE / "on_hosts.py"), self.address, *methods]
        self.root.start(self.machines[0].command(driver), settings, "driver.log")
        self.root.wait_step("cluster up", {0}, STARTED_S)

    def distwatch(self, on: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        said = {**RAY, "DISTWATCH_DIR": self.jobs[on].root} if arguments[0] != "up" else RAY
        there = ["env", *(f"{name}={value}" for name, value in said.items())]
        command = [*there, sys.executable, "-m", "distwatch", *arguments]
        return subprocess.run(
            self.machines[on].command(command),
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip

    def gcs_pid(self) -> int:
        """The cluster's control store."""
        (pid,) = [
            pid
            for pid in processes_of(self.root.root)
            if b"/gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        ]
        return pid


@contextlib.contextmanager
def hosts(count: int, racks: Mapping[str, str] | None = None) -> Iterator[Hosts]:
    """`racks`: the names of racks, by host."""
    with machines(count) as made, contextlib.ExitStack() as jobs:
        found = Hosts(made, [jobs.enter_context(empty_job()) for _ in made], racks or {})
        found.start_ray()
        yield found
        for job in found.jobs:
            job.kill_everything(observer=True)


def test_a_cut_network_and_a_sick_ray_do_not_blind_the_view() -> None:
    with hosts(3) as cluster:
        root = cluster.root
        cluster.start_job("sum_twice", "sum_twice", "sum_twice")
        placed = cluster.distwatch(0, "up", "--ray", "--address", cluster.address)
        assert placed.returncode == 0, placed.stderr
        root.open_gate("job", 0)
        finding = root.wait_verdict(STUCK, {1}, mentions=("sum_twice",), timeout_s=STARTED_S)
        assert set(finding.waiting_ranks) == {0, 2}

        cluster.machines[1].run("nft", "-f", "-", words=EVERYTHING)

        def node2_is_missed(state: RunState) -> bool:
            return set(unseen_hosts(state)) == {"node2"}

        assert host_count(root.wait_state(node2_is_missed)) == (2, 3)
        doubtful = root.wait_verdict(STUCK, (), mentions=("last seen",))
        assert doubtful.confidence < 0.5
        cluster.machines[1].heal()

        def all_are_seen(state: RunState) -> bool:
            return not unseen_hosts(state) and host_count(state) == (3, 3)

        root.wait_state(all_are_seen)
        root.wait_verdict(STUCK, {1}, mentions=("sum_twice",))

        os.kill(cluster.gcs_pid(), signal.SIGSTOP)
        root.wait_ticks(8)
        assert host_count(root.state()) == (3, 3)
        root.wait_verdict(STUCK, {1}, mentions=("sum_twice",))
        seen = cluster.distwatch(2, "attach", "--once", "ray://")
        assert seen.returncode == 3, seen.stderr
        assert "3/3 ranks observed" in seen.stdout
        os.kill(cluster.gcs_pid(), signal.SIGCONT)


def test_a_tree_of_roots_is_seen_whole_from_every_node() -> None:
    with hosts(3, racks={"node2": "a", "node3": "a"}) as cluster:
        root = cluster.root
        cluster.start_job("sum_twice", "sum_twice", "sum_twice")
        placed = cluster.distwatch(0, "up", "--ray", "--address", cluster.address)
        assert placed.returncode == 0, placed.stderr + placed.stdout
        root.open_gate("job", 0)
        finding = root.wait_verdict(STUCK, {1}, mentions=("sum_twice",), timeout_s=STARTED_S)
        assert set(finding.waiting_ranks) == {0, 2}

        def in_a_tree(state: RunState) -> bool:
            roots = below(state, "node1")
            under = below(state, *roots) if len(roots) == 1 else set()
            return {*roots, *under} == {"node2", "node3"} and host_count(state) == (3, 3)

        root.wait_state(in_a_tree)
        for number in range(3):
            seen = cluster.distwatch(number, "attach", "--once", "ray://")
            assert seen.returncode == 3, seen.stderr
            assert "3/3 ranks observed" in seen.stdout
            assert "rank 1" in seen.stdout
