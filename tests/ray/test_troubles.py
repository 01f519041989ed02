"""Real Ray: what it cannot place, restarts, loses and refuses; and the ways to the run of an actor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import NoSuchTarget
from distwatch.observer.targets.embedded_run import EmbeddedRun
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.resolver import resolve
from distwatch.probes.discovery import job_of
from distwatch.probes.ray_cluster import ClusterUnreadable, read_tables
from distwatch.probes.raylets import raylet_of
from distwatch.ray import HOOK
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.ray.test_actors import STARTED_S, pids, start
from tests.support.ranks import Job, empty_job

TROUBLES = Path(__file__).parent / "jobs" / "troubles.py"
TOKEN = "0123456789abcdef" * 4


@contextlib.contextmanager
def cluster(*troubles: str, **env: str) -> Iterator[Job]:
    """A driver whose actors, one a rank, have each its trouble; it has made all of them."""
    with empty_job() as job:
        start(job, [str(TROUBLES), *troubles], {"RAY_RUNTIME_ENV_HOOK": HOOK, **env})
        job.wait_step("gate node", {0}, STARTED_S)
        yield job
        job.kill_everything(observer=True)


def roots(findings: list[Finding]) -> set[tuple[str, tuple[int, ...]]]:
    return {(f.code, f.culprit_ranks) for f in findings if f.blocks and f.role == "root"}


def test_unplaced_grouped_failed_and_restarted_actors_are_each_found_for_what_they_are() -> None:
    expected = {
        ("rendezvous.rank_never_started", (1,)),
        ("rendezvous.rank_never_started", (2,)),
        ("rendezvous.rank_died", (3, 4)),
    }
    with cluster("forms", "unplaced", "grouped", "raises", "restarts") as job:

        def all_are_found(state: RunState) -> bool:
            findings = list(state.recorded_findings)
            # Ray tells of the last restart a moment after the end that was seen here.
            restarts = any("restarted 2 of 2 times" in finding.summary for finding in findings)
            return restarts and roots(findings) == expected

        findings = job.wait_state(all_are_found, STARTED_S).recorded_findings
        found = {f.culprit_ranks: f for f in findings if f.role == "root" and f.blocks}
        assert all(finding.waiting_ranks == (0,) for finding in found.values())
        assert "needs 4 CPU; no node has more than 1 CPU" in found[1,].summary
        assert 'placement group "learners"' in found[2,].summary
        assert "2 × (8 CPU)" in found[2,].summary
        assert "ValueError: no checkpoint for rank 3 (troubles.py:" in found[3, 4].summary
        assert "restarted 2 of 2 times" in found[3, 4].summary
        (driver,) = job.launched
        for target in ("trainer-0", "trainer-1", str(driver.pid), str(pids(job)[0])):
            assert resolve(target, job.root).folder().path == job.folder.path
            assert isinstance(resolve(target, job.root).source(), LiveRun)
        with pytest.raises(NoSuchTarget):
            resolve("trainer-9", job.root).folder()


def test_without_distwatch_a_driver_or_an_actors_name_leads_to_the_job_and_its_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the dashboard; and the cluster wants its token, without which nothing is told."""
    secured = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "DISTWATCH": "0"}
    with cluster("forms", "unplaced", **secured) as job:
        job.wait_step("runs", {0}, STARTED_S)
        (driver,) = job.launched
        (first,) = [one.pid for one in job_of(driver.pid) if one.identity.global_rank == 0]
        raylet = raylet_of(first)
        assert raylet is not None
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
        with pytest.raises(
            ClusterUnreadable, match="rejects the request: it needs the cluster's token"
        ):
            read_tables([raylet])
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with pytest.raises(NoSuchTarget, match=f"distwatch attach {first}"):
            resolve("trainer-0", job.root).folder()
        by_name, by_driver = (
            resolve("trainer-0", job.root).source(),
            resolve(str(driver.pid), job.root).source(),
        )
        assert isinstance(by_name, EmbeddedRun)
        assert isinstance(by_driver, EmbeddedRun)
        assert by_name.run_id == f"attached-{first}"
        # It has no process: its driver is what there is to look at, by another attach of its own.
        assert resolve("trainer-1", job.root).source().run_id == f"{by_driver.run_id}~2"
        finding, state = asyncio.run(look_until_blocked(by_driver))
        assert (finding.code, finding.culprit_ranks) == ("rendezvous.rank_never_started", (1,))
        assert "needs 4 CPU; no node has more than 1 CPU" in finding.summary
        assert {driver.pid, first} <= {process.pid for process in state.processes.values()}


async def look_until_blocked(source: EmbeddedRun) -> tuple[Finding, RunState]:
    """The first root that blocks, as a viewer comes to see it."""
    await source.open()
    try:
        while True:
            await source.poll()
            blocking = [finding for finding in diagnose(source.state) if finding.blocks]
            if blocking:
                return blocking[0], source.state
            await source.wait(1.0)
    finally:
        await source.close()


def test_the_ranks_of_a_node_that_dies_end_with_it() -> None:
    with cluster("on_node1", "on_node2", TEST_NODES="2") as job:
        job.wait_step("gate formed", {0, 1}, STARTED_S)
        job.open_gate("node", 0)
        job.wait_step("gate end", {0}, STARTED_S)
        mentions = ("Ray: ", "node", "died")
        job.wait_verdict("process.exited", {1}, mentions=mentions, timeout_s=STARTED_S)
