"""`distwatch up --hosts` on three machines: a job that hangs already becomes one view."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.diagnosis.facts.host_links import host_count
from distwatch.state.model import RunState
from tests.scenarios.test_nodes import QUICK, STUCK, Nodes, nodes
from tests.support.leftovers import processes_of, wait_gone
from tests.support.links import journals_of, observers_of
from tests.support.machines import INTERFACE, Machine
from tests.support.ranks import REPOSITORY
from tests.support.ssh import ssh_servers

UNLINKED = {
    "DISTWATCH_OBSERVER": "",
    "DISTWATCH_TOKEN": "",
    "DISTWATCH_DEADLINES": QUICK,
    "GLOO_SOCKET_IFNAME": INTERFACE,
}

pytestmark = pytest.mark.timeout(240)


def run_up(
    job: Nodes, shell: str, *options: str, hosts: str = "node2,node3"
) -> subprocess.CompletedProcess[str]:
    """On the first machine, as a person there would say it."""
    command = [
        *("env", f"PYTHONPATH={REPOSITORY}", f"DISTWATCH_DIR={job.root.root}"),
        *(sys.executable, "-m", "distwatch", "up", "--hosts", hosts),
        *("--shell", f"{shell} {{host}}", "-o", "json", *options),
    ]
    return subprocess.run(
        job.hosts[0].command(command), capture_output=True, text=True, timeout=120, check=False
    )


def up(job: Nodes, shell: str) -> list[dict[str, str]]:
    done = run_up(job, shell)
    assert done.returncode == 0, done.stderr
    assert "token" not in done.stdout
    rows: list[dict[str, str]] = json.loads(done.stdout)["hosts"]
    return rows


def keepers_of(job: Nodes) -> list[int]:
    return [
        pid
        for one in job.jobs
        for pid in processes_of(one.root)
        if b"host_keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def sessions_of(job: Nodes) -> dict[Machine, dict[str, str]]:
    """What ssh sessions on the other machines say of their run folders."""
    others = list(zip(job.hosts, job.jobs, strict=True))[1:]
    return {host: {"DISTWATCH_DIR": one.root} for host, one in others}


def assert_nobody_is_blamed_yet(job: Nodes) -> None:
    """Each host alone sees that its rank waits, and not for whom."""

    def something_hangs(state: RunState) -> bool:
        return any(finding.blocks for finding in state.recorded_findings)

    state = job.root.wait_state(something_hangs)
    assert not [rank for f in state.recorded_findings for rank in f.culprit_ranks]


def assert_root_comes_again(job: Nodes) -> None:
    (root,) = observers_of(job.root.root)
    os.kill(root, signal.SIGKILL)
    assert wait_gone(root, 60)

    def linked_again(state: RunState) -> bool:
        links = state.hosts["node1"].links if "node1" in state.hosts else {}
        anew = [pid for pid in observers_of(job.root.root) if pid != root]
        return bool(anew) and host_count(state) == (3, 3) and len(links) == 2

    job.root.wait_state(linked_again)
    job.root.wait_verdict(STUCK, {1}, mentions=("after_the_gate.py",))


def assert_nothing_is_left_or_lost(job: Nodes) -> None:
    for one in job.jobs:
        assert one.wait_ended() == [0]
    keepers = keepers_of(job)
    job.wait_observers_ended()
    for host, one in list(zip(job.hosts, job.jobs, strict=True))[1:]:
        at_home = journals_of(one.folder, host.name)
        assert at_home
        assert journals_of(job.root.folder, host.name) == at_home
    for pid in keepers:
        assert wait_gone(pid, 60), f"the keeper, pid {pid}, is still there"


def test_a_hang_on_hosts_that_nobody_had_linked_is_judged_as_one(tmp_path: Path) -> None:
    with nodes() as job:
        job.launch("after_the_gate", env=UNLINKED)
        for rank in range(3):
            job.jobs[rank].wait_step("gate reduce", {rank})
        for rank in (0, 2):
            job.jobs[rank].open_gate("reduce", rank)
        assert_nobody_is_blamed_yet(job)
        with ssh_servers(tmp_path, sessions_of(job)) as shell:
            rows = up(job, shell)
            assert [row["called"] for row in rows] == ["node1", "node2", "node3"]
            assert [row["told"].split()[0] for row in rows] == ["root", "leaf", "leaf"]
            assert not [row for row in rows if row["failed"] or row["card"]]
            # Said again, it changes nothing: the new keepers take the old ones' place.
            assert [row["told"] for row in up(job, shell)] == [row["told"] for row in rows]
        finding = job.root.wait_verdict(STUCK, {1}, mentions=("after_the_gate.py",))
        assert set(finding.waiting_ranks) == {0, 2}
        assert len(keepers_of(job)) == 3
        assert_root_comes_again(job)
        job.jobs[1].open_gate("reduce", 1)
        assert_nothing_is_left_or_lost(job)


def test_a_host_that_cannot_be_joined_is_told(tmp_path: Path) -> None:
    with nodes() as job:
        job.launch("after_the_gate", env=UNLINKED)
        job.root.wait_step("gate reduce", {0})
        with ssh_servers(tmp_path, {}) as shell:
            done = run_up(job, shell)
        assert done.returncode == 6
        here, *others = json.loads(done.stdout)["hosts"]
        assert here["told"].startswith("root")
        assert [bool(row["failed"]) for row in others] == [True, True]
        refused = run_up(job, shell, "--address", "192.0.2.1")
        assert refused.returncode == 6
        assert all(row["failed"] for row in json.loads(refused.stdout)["hosts"])
