"""Ranks on two hosts, one network between them."""

from __future__ import annotations

import sys

import pytest

from tests.support.hosts import INTERFACE, Host, two_hosts
from tests.support.outcomes import outcomes_of
from tests.support.ranks import JOBS, PATIENT, Job, empty_job
from tests.support.verdicts import assert_healthy

PORT = 29500


def start(
    job: Job, host: Host, rank: int, endpoint: Host, what: str, env: dict[str, str],
    script: str = "forms",
) -> None:  # fmt: skip
    variables = {
        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": endpoint.address, "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": INTERFACE,
        **env,
    }  # fmt: skip
    command = [sys.executable, str(JOBS / f"{script}.py"), what]
    job.start(host.command(command), variables, f"rank{rank}.log")


@pytest.mark.parametrize("how", ["torch", "initialize"])
def test_two_hosts_form_a_world(how: str) -> None:
    env = {"TEST_HOW": how, "DISTWATCH_DEADLINES": PATIENT}
    with two_hosts() as (first, second), empty_job() as here, empty_job() as there:
        start(here, first, 0, first, "form_and_reduce", env)
        start(there, second, 1, first, "form_and_reduce", env)
        for job in (here, there):
            assert job.wait_ended() == [0]
            job.wait_observer_ended()
            assert_healthy(job.judged_blocking())


@pytest.mark.parametrize("how", ["torch", "initialize"])
def test_a_firewall_that_drops_everything(how: str) -> None:
    env = {"TEST_HOW": how, "DISTWATCH_DEADLINES": "init=12,group=12,load=60,collective=60"}
    with two_hosts() as (first, second), empty_job() as here, empty_job() as there:
        first.drop_packets_to(PORT)
        start(there, second, 1, first, "form_and_reduce", env)
        finding = there.wait_verdict(
            "rendezvous.store_unreachable", {1}, mentions=(f"{first.address}:{PORT}",)
        )
        assert "firewall" in finding.summary + finding.advice
        if how == "initialize":
            (outcome,) = outcomes_of(there, {1}).values()
            assert (outcome["type"], outcome["code"]) == (
                "InitTimeout",
                "rendezvous.store_unreachable",
            )
        assert not here.launched


def test_a_cable_that_breaks_while_they_compute() -> None:
    with two_hosts() as (first, second), empty_job() as job:
        for rank, host in enumerate((first, second)):
            start(job, host, rank, first, "", {}, "after_the_gate")
        job.wait_step("gate reduce", {0, 1})
        for host, other in ((first, second), (second, first)):
            host.drop_packets_from(other)
        for rank in (0, 1):
            job.open_gate("reduce", rank)
        finding = job.wait_verdict(
            "network.partition", (), mentions=(first.address, second.address, "sent again")
        )
        assert set(finding.waiting_ranks) == {0, 1}


def test_each_side_of_a_broken_cable_says_so_alone() -> None:
    with two_hosts() as (first, second), empty_job() as here, empty_job() as there:
        start(here, first, 0, first, "", {}, "after_the_gate")
        start(there, second, 1, first, "", {}, "after_the_gate")
        here.wait_step("gate reduce", {0})
        there.wait_step("gate reduce", {1})
        for host, other in ((first, second), (second, first)):
            host.drop_packets_from(other)
        here.open_gate("reduce", 0)
        there.open_gate("reduce", 1)
        for job, other in ((here, second), (there, first)):
            job.wait_verdict("network.partition", (), mentions=(other.address,))
