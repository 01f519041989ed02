"""Ranks of one job that meet at different places, and places that are one under two names."""

from __future__ import annotations

import pytest

from distwatch.state.events import Site
from distwatch.state.identity import Identity, identify
from tests.diagnosis.recorded import RecordedJob, judged, only_root

ELSEWHERE = "10.0.0.1:29501"


def split(endpoints: dict[int, str], world: int | None = None, **hosts: str) -> RecordedJob:
    """Ranks that wait, each at its endpoint; hosts by `r<rank>`."""
    job = RecordedJob(world or len(endpoints))
    for rank, endpoint in endpoints.items():
        name, _, port = endpoint.rpartition(":")
        host = hosts.get(f"r{rank}", "node1")
        job.stand(rank, host=host, master_addr=name, master_port=int(port))
    job.start(*endpoints)
    for rank, endpoint in endpoints.items():
        # Where rank 0 does not listen, a client of the store goes on looking for it.
        job.enter(rank, inner=None if endpoint == endpoints.get(0) else "rendezvous")
    return job


def test_another_port_is_known_within_seconds() -> None:
    here = "10.0.0.1:29500"
    job = split({0: here, 1: here, 2: ELSEWHERE, 3: here})
    job.tick(1.5)
    assert judged(job) == []
    job.tick(2.5)
    verdict = only_root(job, "rendezvous.endpoint_disagrees", 2)
    assert verdict.waiting_ranks == (0, 1, 3)
    assert ELSEWHERE in verdict.summary
    assert verdict.confidence > 0.9
    job.tick(60.0)
    only_root(job, "rendezvous.endpoint_disagrees", 2)


def test_rank_0_may_be_the_odd_one() -> None:
    job = split({0: ELSEWHERE, 1: "10.0.0.1:29500", 2: "10.0.0.1:29500"})
    job.tick(60.0)
    only_root(job, "rendezvous.endpoint_disagrees", 0)


def test_of_two_the_one_that_is_not_with_rank_0_is_named_less_surely() -> None:
    job = split({0: "10.0.0.1:29500", 1: ELSEWHERE})
    job.tick(3.0)
    verdict = only_root(job, "rendezvous.endpoint_disagrees", 1)
    assert verdict.confidence < 0.7


def test_who_times_out_there_is_no_culprit_and_the_finding_stays() -> None:
    job = split({0: "10.0.0.1:29500", 1: "10.0.0.1:29500", 2: ELSEWHERE})
    job.tick(3.0)
    for rank in (0, 1, 2):
        told = (
            "DistNetworkError: The client socket has timed out after 9000ms while trying to connect"
        )
        job.refuse(rank, 10.0, told)
    only_root(job, "rendezvous.endpoint_disagrees", 2)


def test_localhost_is_another_host_on_each() -> None:
    local = "localhost:29500"
    job = split(dict.fromkeys(range(4), local), r2="node2", r3="node2")
    job.tick(3.0)
    verdict = only_root(job, "rendezvous.endpoint_disagrees", 2, 3)
    assert "localhost is a different host" in verdict.advice


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("localhost:29500", "127.0.0.1:29500"),
        ("[::1]:29500", "localhost:29500"),
        ("node1:29500", "node1.cluster.example:29500"),
        ("node1:29500", "localhost:29500"),
        ("NODE1:29500", "node1:29500"),
    ],
)
def test_one_place_under_two_names(one: str, other: str) -> None:
    job = split({0: one, 1: other}, world=3)
    job.tick(60.0)
    verdict = only_root(job, "rendezvous.rank_never_started", 2)
    assert verdict.waiting_ranks == (0, 1)


def test_other_names_may_be_one_place_until_they_have_not_met_in_time() -> None:
    job = split({0: "head:29500", 1: "10.0.0.7:29500"})
    job.tick(6.0)
    assert judged(job) == []
    job.tick(12.0)
    verdict = only_root(job, "rendezvous.endpoint_disagrees", 1)
    assert verdict.confidence < 0.9


def test_addresses_that_the_names_resolve_to_decide_it() -> None:
    apart = split({0: "head:29500", 1: "tail:29500", 2: "head:29500"})
    apart.probe("store", 2.0, endpoint="head:29500", addresses=("10.0.0.1",))
    apart.probe("refused", 2.0, endpoint="tail:29500", addresses=("10.0.0.2",))
    apart.tick(3.0)
    only_root(apart, "rendezvous.endpoint_disagrees", 1)
    one = split({0: "head:29500", 1: "tail:29500"}, world=3)
    one.probe("store", 2.0, endpoint="head:29500", addresses=("10.0.0.1",))
    one.probe("store", 2.0, endpoint="tail:29500", addresses=("10.0.0.1",))
    one.tick(60.0)
    only_root(one, "rendezvous.rank_never_started", 2)


def test_a_rank_that_is_only_late_at_one_place_is_no_disagreement() -> None:
    job = split({0: "10.0.0.1:29500", 2: "10.0.0.1:29500"}, world=3)
    job.tick(9.0)
    assert judged(job) == []


def small_worlds(identities: list[Identity]) -> RecordedJob:
    """Processes that each have formed a world of their own, side by side on one host."""
    job = RecordedJob(1)
    for number, identity in enumerate(identities):
        job.status[number], job.hosts[number] = identity, f"node{number}"
        job.start(number)
        own = {"global_rank": 0, "world_size": 1, "endpoint": f"localhost:{29500 + number}"}
        job.enter(number, **own, hosts_store=True)
        job.form(number, members=(0,))
    job.tick(60.0)
    return job


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"},
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "2", "PMI_SIZE": "4"},
    ],
)
def test_what_the_launcher_started_is_known_whatever_the_script_was_given(
    variables: dict[str, str],
) -> None:
    identity = identify({**variables, "RANK": "0", "WORLD_SIZE": "1"})
    assert (identity.task, identity.tasks) == (2, 4)
    assert (identity.global_rank, identity.world_size) == (0, 1)


def test_tasks_of_slurm_that_each_form_a_world_of_one() -> None:
    tasks = [
        Identity(launcher="slurm", task=n, tasks=3, global_rank=0, world_size=1) for n in range(3)
    ]
    (finding,) = judged(small_worlds(tasks))
    assert finding.code == "rendezvous.endpoint_disagrees"
    assert finding.severity == "warning", "each of them works"
    assert finding.confidence < 0.7, "it may be meant"
    assert "3 small worlds" in finding.summary
    assert "SLURM_PROCID" in finding.advice


def test_ranks_of_torchrun_that_ignore_its_variables() -> None:
    ranks = [Identity(launcher="torchrun", global_rank=n, world_size=2) for n in range(2)]
    (finding,) = judged(small_worlds(ranks))
    assert finding.code == "rendezvous.endpoint_disagrees"


@pytest.mark.parametrize(
    "identity",
    [
        Identity(launcher="slurm", task=0, tasks=8, global_rank=0, world_size=1),
        Identity(launcher="ray", global_rank=0, world_size=1),
        Identity(launcher="unknown"),
    ],
    ids=["sbatch without srun", "ray actors", "no launcher"],
)
def test_worlds_of_one_that_are_meant(identity: Identity) -> None:
    assert judged(small_worlds([identity, identity])) == []


ALONE = Identity(launcher="env", global_rank=0, world_size=1)


def test_processes_of_one_parent_that_are_each_told_to_be_alone() -> None:
    job = small_worlds([ALONE] * 3)
    assert judged(job) == [], "they are of three hosts"
    job = RecordedJob(1)
    for number in range(3):
        job.status[number] = ALONE
        job.start(number)
        endpoint = f"localhost:{29500 + number}"
        job.enter(number, global_rank=0, world_size=1, endpoint=endpoint, hosts_store=True)
        job.form(number, members=(0,))
    job.tick(60.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("rendezvous.endpoint_disagrees", "warning")
    assert "3 small worlds of 1 rank" in finding.summary


def test_programs_that_run_one_after_the_other_are_meant() -> None:
    job = RecordedJob(1)
    for number in range(2):
        job.status[number] = ALONE
        at, endpoint = 10.0 * number, f"localhost:{29500 + number}"
        job.start(number, at=at)
        job.enter(number, at=at + 1, global_rank=0, world_size=1, endpoint=endpoint)
        job.form(number, at=at + 2, members=(0,))
        job.exit(number, 4.0 + 10 * number, code=0)
    job.tick(60.0)
    assert judged(job) == []


def test_the_call_is_shown() -> None:
    job = split({0: "10.0.0.1:29500", 1: ELSEWHERE})
    job.plan(1, 1.0, site=Site(file="/job/other.py", line=3, function="start"))
    job.tick(3.0)
    verdict = only_root(job, "rendezvous.endpoint_disagrees", 1)
    assert any("other.py:3" in evidence.text for evidence in verdict.evidence)
