"""A tree of roots on five machines: two racks of two, and the root of the run above them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.state.model import RunState
from tests.scenarios.test_nodes import STUCK, Nodes, nodes
from tests.support.leftovers import wait_gone
from tests.support.links import journals_of, observers_of
from tests.support.ranks import REPOSITORY, RUN_ID
from tests.support.terminals import in_terminal

QUICK = "init=60,group=60,collective=2"
RACKS = {1: "a", 2: "a", 3: "b", 4: "b"}
AWAY = 2
"""A rank of a rack, on a host that is not the first of it."""
SERVED = """
import http.client, json, subprocess, sys
command = [sys.executable, "-m", "distwatch.cli", "serve", "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serve:
    try:
        port = int(serve.stdout.readline().strip(" /\\n").rpartition(":")[2])
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        told = []
        for path in ("/", "/metrics"):
            server.request("GET", path)
            told.append(server.getresponse().read().decode())
    finally:
        serve.terminate()
print(json.dumps(told))
"""
"""Serves on a machine, and prints the live page and the metrics."""

pytestmark = pytest.mark.timeout(300)


def below(state: RunState, host: str) -> set[str]:
    """The other hosts that this host's observer is the root of."""
    held = state.hosts.get(host)
    links = held.links.items() if held else ()
    return {peer for peer, link in links if link.linked and ":" not in peer}


def in_racks(state: RunState) -> bool:
    """Whether each rack has a root, which the run's root sees, and all hosts are seen."""
    roots = below(state, "node1")
    held = [{root, *below(state, root)} for root in roots]
    racks = [{"node2", "node3"}, {"node4", "node5"}]
    return host_count(state) == (5, 5) and all(rack in held for rack in racks)


def distwatch(job: Nodes, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on that machine."""
    return python(job, number, "-m", "distwatch.cli", *words)


def python(job: Nodes, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DISTWATCH_DIR": job.jobs[number].root, "COLUMNS": "200"}
    return subprocess.run(
        job.hosts[number].command([sys.executable, *words]),
        env={**env, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_seen_from_everywhere(job: Nodes) -> None:
    """On a host of a rack through two roots; from disk, as a report, as a trace and in replay."""
    looked = distwatch(job, 4, "attach", RUN_ID, "--once")
    assert looked.returncode == 3, looked.stderr
    assert "rank 2" in looked.stdout
    for host in job.hosts:
        assert host.name in looked.stdout
    told = json.loads(distwatch(job, 0, "report", RUN_ID, "-o", "json").stdout)
    assert told["findings"][0]["culprit_ranks"] == [AWAY]
    assert set(told["run"]["hosts"]) == {host.name for host in job.hosts}
    path = os.path.join(job.root.root, "trace.json")
    done = distwatch(job, 0, "export", RUN_ID, "-o", "perfetto", "--output", path)
    assert done.returncode == 3, done.stderr
    with open(path, encoding="utf-8") as file:
        assert told["findings"][0]["code"] in file.read()


def assert_served(job: Nodes) -> None:
    """The live page has the whole run, also through two roots; metrics are of what that host recorded."""
    for number, seen in ((0, 5), (4, 1)):
        done = python(job, number, "-c", SERVED)
        assert done.returncode == 0, done.stderr
        page, metrics = json.loads(done.stdout)
        assert f"rank {AWAY} waits for data" in page
        assert all(host.name in page for host in job.hosts)
        assert f'distwatch_hosts_seen{{run="{RUN_ID}"}} {seen}.0' in metrics
        assert f'distwatch_hosts_expected{{run="{RUN_ID}"}} 5.0' in metrics
        assert f'distwatch_run_blocked{{run="{RUN_ID}"}} 1.0' in metrics


def assert_replayed(job: Nodes) -> None:
    replay = [sys.executable, "-m", "distwatch.cli", "replay", RUN_ID, "--dir", job.root.root]
    code, said = in_terminal(
        job.hosts[0].command(["env", f"PYTHONPATH={REPOSITORY}", *replay]),
        columns=200,
        until=b"5/5 ranks observed",
        then=lambda _, terminal: os.write(terminal, b"q"),
    )
    assert code == 0
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", said.decode())
    assert f"rank {AWAY} waits for data" in shown
    assert "5 hosts · recorded" in shown


def kill_observer(job: Nodes, number: int) -> None:
    (pid,) = observers_of(job.jobs[number].root)
    os.kill(pid, signal.SIGKILL)
    assert wait_gone(pid, 60)


def assert_root_has_it_once(job: Nodes) -> None:
    """What ranks recorded is all there, in order; of what observers saw, a part, and nothing twice."""
    for host, one in list(zip(job.hosts, job.jobs, strict=True))[1:]:
        at_home, at_root = (
            journals_of(one.folder, host.name),
            journals_of(job.root.folder, host.name),
        )
        for stream, records in at_home.items():
            there = [seq for seq, _, _ in at_root.get(stream, [])]
            if stream.startswith("observer:"):
                assert there == sorted(set(there))
                assert set(there) <= {seq for seq, _, _ in records}
            else:
                assert there == [seq for seq, _, _ in records]


def assert_roots_are_replaced(job: Nodes) -> None:
    """The root of a rack is killed, then the root of the run."""
    roots = below(job.root.state(), "node1") & {"node2", "node3"}
    (first,) = roots
    kill_observer(job, int(first[-1]) - 1)

    def lost(state: RunState) -> bool:
        return first in unseen_hosts(state) or below(state, first) == set()

    job.root.wait_state(lost)
    job.root.wait_state(in_racks)
    kill_observer(job, 0)

    def came_again(state: RunState) -> bool:
        return len(state.hosts["node1"].observers) == 2 and in_racks(state)

    job.root.wait_state(came_again)
    job.root.wait_verdict(STUCK, {AWAY}, mentions=("after_the_gate.py",))


def test_a_hang_across_racks_whose_roots_die() -> None:
    with nodes(5) as job:
        job.launch(
            "after_the_gate",
            env={"DISTWATCH_DEADLINES": QUICK},
            env_of={rank: {"DISTWATCH_RACK": name} for rank, name in RACKS.items()},
        )
        job.root.wait_state(in_racks)
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        for rank in {*range(5)} - {AWAY}:
            job.jobs[rank].open_gate("reduce", rank)
        finding = job.root.wait_verdict(STUCK, {AWAY}, mentions=("after_the_gate.py",))
        assert set(finding.waiting_ranks) == {0, 1, 3, 4}
        # The root of a rack judges its own, and blames nobody whom it does not see.
        for number in (1, 3):
            blamed = {r for f in job.jobs[number].judged_blocking() for r in f.culprit_ranks}
            assert blamed <= {AWAY}

        assert_seen_from_everywhere(job)
        assert_served(job)
        assert_replayed(job)
        assert_roots_are_replaced(job)
        job.jobs[AWAY].open_gate("reduce", AWAY)
        for one in job.jobs:
            assert one.wait_ended() == [0]
        job.wait_observers_ended()
        assert_root_has_it_once(job)
        assert unseen_hosts(job.root.state()) == {}
        assert host_count(job.root.state()) == (5, 5)
