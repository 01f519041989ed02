"""One run on three machines without a shared folder: their observers make one view of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.support.leftovers import wait_gone
from tests.support.links import journals_of, links_of, observers_of
from tests.support.machines import INTERFACE, Machine, machines
from tests.support.ranks import JOBS, PATIENT, REPOSITORY, RUN_ID, Job, empty_job, process_of
from tests.support.verdicts import assert_healthy

LINK = 29700
TOKEN = "0123456789abcdef0123456789abcdef"
STUCK = ("collective.rank_missing", "process.data_stall")
QUICK = "init=60,group=60,load=60,collective=6"


class Nodes:
    """One rank on each machine; the first one's observer is the root."""

    def __init__(self, hosts: list[Machine], jobs: list[Job]) -> None:
        self.hosts = hosts
        self.jobs = jobs

    @property
    def root(self) -> Job:
        return self.jobs[0]

    def launch(
        self,
        script: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        env_of: Mapping[int, Mapping[str, str]] | None = None,
    ) -> None:
        for rank, (host, job) in enumerate(zip(self.hosts, self.jobs, strict=True)):
            variables = {
                "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(self.hosts)),
                "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "29500", **self.environment(), **(env or {}),
                **(env_of or {}).get(rank, {}),
            }  # fmt: skip
            command = [sys.executable, str(JOBS / f"{script}.py"), *args]
            job.start(host.command(command), variables, f"rank{rank}.log")

    def environment(self) -> dict[str, str]:
        return {
            "MASTER_ADDR": self.hosts[0].address,
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "DISTWATCH_OBSERVER": f":{LINK}",
            "DISTWATCH_TOKEN": TOKEN,
        }

    def wait_linked(self, hosts: set[str]) -> RunState:
        def linked(state: RunState) -> bool:
            return {name for name, is_up in links_of(state).items() if is_up} == hosts

        return self.root.wait_state(linked)

    def wait_lost(self, host: str) -> RunState:
        def lost(state: RunState) -> bool:
            return links_of(state).get(host) is False

        return self.root.wait_state(lost)

    def wait_observers_ended(self) -> None:
        for job in self.jobs:
            for pid in observers_of(job.root):
                assert wait_gone(pid, 60), f"the observer, pid {pid}, is still there"

    def open_gates(self, name: str) -> None:
        for rank, job in enumerate(self.jobs):
            job.wait_step(f"gate {name}", {rank})
        for rank, job in enumerate(self.jobs):
            job.open_gate(name, rank)


@contextlib.contextmanager
def nodes(count: int = 3, ahead_s: Mapping[int, int] | None = None) -> Iterator[Nodes]:
    with machines(count, ahead_s) as hosts, contextlib.ExitStack() as jobs:
        yield Nodes(hosts, [jobs.enter_context(empty_job()) for _ in hosts])


def assert_same_journals(nodes: Nodes) -> None:
    """The root has what the leaves have: nothing is missing, nothing there twice."""
    for host, job in list(zip(nodes.hosts, nodes.jobs, strict=True))[1:]:
        at_home, at_root = (
            journals_of(job.folder, host.name),
            journals_of(nodes.root.folder, host.name),
        )
        assert at_home
        assert at_root == at_home


def assert_ends_whole(nodes: Nodes) -> None:
    """Lets rank 1 go on: the job ends well, and the root has all that the leaves have."""
    nodes.jobs[1].open_gate("reduce", 1)
    for one in nodes.jobs:
        assert one.wait_ended() == [0]
    nodes.wait_observers_ended()
    assert_same_journals(nodes)


def test_a_hang_on_another_host_is_judged_at_the_root() -> None:
    with nodes() as job:
        job.launch("elsewhere", "lock", "1", "all_reduce", env={"DISTWATCH_DEADLINES": QUICK})
        finding = job.root.wait_verdict(
            ("collective.rank_missing", "process.lock_wait"), {1}, mentions=("acquire_cache_lock",)
        )
        assert set(finding.waiting_ranks) == {0, 2}
        # A leaf sees one rank that waits: it never blames a rank on a host that it cannot see.
        assert {r for f in job.jobs[2].judged_blocking() for r in f.culprit_ranks} <= {2}


def test_a_link_that_is_cut_while_the_job_goes_on() -> None:
    with nodes() as job:
        job.launch("after_the_gate", env={"DISTWATCH_DEADLINES": "init=60,group=60,collective=2"})
        job.wait_linked({"node2", "node3"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})

        def seen_in_the_world(state: RunState) -> bool:
            rank = process_of(state, 1)
            return rank is not None and rank.initialized

        job.root.wait_state(seen_in_the_world)
        job.hosts[1].cut(LINK)
        state = job.wait_lost("node2")
        assert host_count(state) == (2, 3)
        assert "silent for" in unseen_hosts(state)["node2"].why
        # Ranks 0 and 2 now wait for rank 1, of whom the root knows nothing.
        job.jobs[0].open_gate("reduce", 0)
        job.jobs[2].open_gate("reduce", 2)
        finding = job.root.wait_verdict(STUCK, (), mentions=("last seen",))
        assert finding.confidence < 0.5
        job.hosts[1].heal()
        state = job.wait_linked({"node2", "node3"})
        assert host_count(state) == (3, 3)
        job.root.wait_verdict("process.data_stall", {1}, mentions=("after_the_gate.py",))
        assert_ends_whole(job)


def test_a_network_that_swallows_large_packets_loses_no_record() -> None:
    with nodes(2) as job:
        job.launch("after_the_gate", env={"DISTWATCH_DEADLINES": "init=60,group=60,collective=2"})
        job.wait_linked({"node2"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        job.hosts[1].swallow(LINK, above=600)
        # Rank 0 waits; rank 1's stack is a record that no longer fits into a packet that passes.
        job.jobs[0].open_gate("reduce", 0)
        state = job.wait_lost("node2")
        assert "silent for" in unseen_hosts(state)["node2"].why
        job.hosts[1].heal()
        job.wait_linked({"node2"})
        job.root.wait_verdict("process.data_stall", {1}, mentions=("after_the_gate.py",))
        assert_ends_whole(job)


@contextlib.contextmanager
def small_disk(place: str) -> Iterator[Callable[[], None]]:
    """Mounts a disk of 16 MiB there; what it yields fills it."""
    image, filler = f"{place}.img", os.path.join(place, "filler")
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", image, place], check=True, timeout=60)
    os.chmod(place, 0o700)

    def fill() -> None:
        descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while os.write(descriptor, bytes(size)):
                    pass
        os.close(descriptor)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=60)
        os.unlink(image)


def test_what_a_full_disk_of_the_root_refused_it_gets_once_there_is_room() -> None:
    # Mounted before the machines are there: what comes after is not seen on them.
    with (
        empty_job() as first,
        small_disk(first.folder.path) as fill,
        machines(2) as hosts,
        empty_job() as second,
    ):
        job = Nodes(hosts, [first, second])
        job.launch("after_the_gate", env={"DISTWATCH_DEADLINES": PATIENT})
        job.wait_linked({"node2"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        fill()
        # Rank 1 goes on, which its own host writes down and tells.
        job.jobs[1].open_gate("reduce", 1)

        def refused(state: RunState) -> bool:
            missed = state.hosts["node1"].not_observed.get("disk", "")
            return "node2" in missed and "No space left" in missed

        job.root.wait_state(refused)
        os.unlink(os.path.join(job.root.folder.path, "filler"))
        job.jobs[0].open_gate("reduce", 0)
        for one in job.jobs:
            assert one.wait_ended() == [0]
        job.wait_observers_ended()
        assert_same_journals(job)


def test_a_host_whose_clock_is_a_day_ahead_is_judged_as_the_others() -> None:
    with nodes(2, ahead_s={2: 86_400}) as job:
        job.launch("after_the_gate", env={"DISTWATCH_DEADLINES": "init=60,group=60,collective=2"})
        job.wait_linked({"node2"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        job.jobs[0].open_gate("reduce", 0)
        finding = job.root.wait_verdict("process.data_stall", {1})
        assert finding.waiting_ranks == (0,)
        assert not re.search(r"for \d{3,} s|for \d+ h|day", finding.summary)
        assert_ends_whole(job)


def test_a_root_that_is_killed_comes_again_and_lacks_nothing() -> None:
    with nodes() as job:
        job.launch("after_the_gate", env={"DISTWATCH_DEADLINES": PATIENT})
        job.wait_linked({"node2", "node3"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        (first,) = observers_of(job.root.root)
        os.kill(first, signal.SIGKILL)

        def observed_anew(state: RunState) -> bool:
            told = [e.event for e in state.timeline if isinstance(e.event, ev.LinkChanged)]
            lost = {change.peer for change in told if "was restarted" in change.why}
            return lost == {"node2", "node3"} and all(links_of(state).values())

        job.root.wait_state(observed_anew)
        job.open_gates("reduce")
        for one in job.jobs:
            assert one.wait_ended() == [0]
        job.wait_observers_ended()
        assert_same_journals(job)
        assert_healthy(job.root.judged_blocking())


def test_a_wrong_token_is_refused_and_said_on_both_sides() -> None:
    with nodes() as job, quiet_ranks(job) as observe:
        observe(0, TOKEN)
        observe(1, TOKEN)
        observe(2, "f" * 32)
        job.wait_linked({"node2"})

        # A refused connection may be over before its address is read; a host that knocks again tells it.
        def turned_away(state: RunState) -> bool:
            told = state.hosts["node1"].not_observed.get("link", "")
            return told == f"{job.hosts[2].address} was refused: its token differs"

        state = job.root.wait_state(turned_away)
        assert "node3" not in state.hosts

        def told_at_home(state: RunState) -> bool:
            return any("its token differs" in u.why for u in unseen_hosts(state).values())

        job.jobs[2].wait_state(told_at_home)


@contextlib.contextmanager
def quiet_ranks(job: Nodes) -> Iterator[Callable[[int, str], None]]:
    """Ranks without torch, that do nothing; yields what starts a host's observer."""
    read, write = os.pipe()

    def observe(number: int, token: str) -> None:
        one, host = job.jobs[number], job.hosts[number]
        variables = {
            **job.environment(), "DISTWATCH": "0", "DISTWATCH_TOKEN": token,
            "RANK": str(number), "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "1",
            "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        python = [sys.executable, "-m"]
        rank = [*python, "tests.observer.rank_process", one.folder.path, str(1 << 16)]
        one.start(host.command(rank), variables, "rank.log", read)
        observer = [*python, "distwatch.observer", one.folder.path]
        one.start(host.command(observer), variables, "observer.log")

    try:
        yield observe
    finally:
        os.close(write)
        os.close(read)


def test_torchrun_on_three_hosts_is_seen_whole_at_the_root_and_from_a_leaf() -> None:
    with nodes() as job:
        for number, (host, one) in enumerate(zip(job.hosts, job.jobs, strict=True)):
            command = [
                *(
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    "--nnodes=3",
                    "--nproc-per-node=1",
                ),
                *(f"--node-rank={number}", f"--master-addr={job.hosts[0].address}"),
                *("--master-port=29500", str(JOBS / "after_the_gate.py")),
            ]
            variables = {**job.environment(), "DISTWATCH_DEADLINES": PATIENT}
            del variables["MASTER_ADDR"]  # torchrun says it to its ranks itself
            one.start(host.command(command), variables, "torchrun.log")
        job.wait_linked({"node2", "node3"})
        for rank, one in enumerate(job.jobs):
            one.wait_step("gate reduce", {rank})
        look = [sys.executable, "-m", "distwatch.cli", "attach", RUN_ID, "--once"]
        env = {**os.environ, "DISTWATCH_DIR": job.jobs[2].root, "COLUMNS": "160"}
        env["PYTHONPATH"] = str(REPOSITORY)
        told = subprocess.run(
            job.hosts[2].command(look), env=env, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr + told.stdout
        for name in ("node1", "node2", "node3"):
            assert name in told.stdout
        job.open_gates("reduce")
        assert [one.wait_ended() for one in job.jobs] == [[0], [0], [0]]
        job.wait_observers_ended()
        assert_same_journals(job)
        state = job.root.state()
        ranks = {p.global_rank: p for p in state.processes.values() if p.role == "rank"}
        assert {rank: process.host for rank, process in ranks.items()} == {
            0: "node1", 1: "node2", 2: "node3",
        }  # fmt: skip
        assert all(p.outside.exit and p.outside.exit.exit_code == 0 for p in ranks.values())
        assert_healthy(state.recorded_findings)
