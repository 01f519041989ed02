"""What the observer puts on record of the place where real ranks wait for each other."""

from __future__ import annotations

import os
import signal

import pytest

from distwatch.state.events import EndpointProbed
from distwatch.state.model import RunState
from tests.probes.others import other
from tests.support.ranks import PATIENT, launch_ranks, torchrun

PATIENCE = {"DISTWATCH_DEADLINES": PATIENT}
pytestmark = pytest.mark.timeout(240)  # its own waits end first, and tell more


def looks_now(state: RunState) -> list[EndpointProbed]:
    return [look for host in state.hosts.values() for look in host.endpoints.values()]


def test_real_ranks_that_wait_for_another_are_seen_in_their_store() -> None:
    with launch_ranks("init_only", world_size=3, ranks=[0, 1], env=PATIENCE) as job:
        job.wait_step("init", {0, 1})

        def rank_1_was_named(state: RunState) -> bool:
            return any(look.arrived == (1,) for look in looks_now(state))

        (look,) = looks_now(job.wait_state(rank_1_was_named))
        assert (look.outcome, look.clients) == ("store", 2)
        assert look.owner_pid == job.pid_of(0)
        assert look.owner_process in job.state().processes


def test_the_end_of_torchruns_store_is_on_record() -> None:
    with torchrun("late_before_init", 2, env=PATIENCE) as job:
        job.wait_step("gate token", {1})
        job.wait_step("init", {0})
        launcher = job.launched[0].pid

        def store_answered(state: RunState) -> bool:
            return any(look.owner_pid == launcher for look in looks_now(state))

        (look,) = looks_now(job.wait_state(store_answered))
        assert (look.outcome, look.arrived) == ("store", (0,))
        os.kill(launcher, signal.SIGKILL)

        def store_is_gone(state: RunState) -> bool:
            return [look.outcome for look in looks_now(state)] == ["refused"]

        state = job.wait_state(store_is_gone)
        assert all(look.endpoint in host.answered_ns for host in state.hosts.values()
                   for look in host.endpoints.values())  # fmt: skip


MUTE = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
"""


def test_who_has_the_port_belongs_into_the_verdict_of_a_rank_that_died_of_it() -> None:
    with other(MUTE) as taken:
        env = {**PATIENCE, "MASTER_PORT": str(taken.number())}
        with launch_ranks("init_only", world_size=2, ranks=[0], env=env) as job:
            owner = f"pid {taken.pid} on {os.uname().nodename}"
            job.wait_verdict("rendezvous.port_taken", (), mentions=(owner,))


def test_the_end_of_torchruns_store_is_on_record_though_all_its_ranks_had_met() -> None:
    with torchrun("elsewhere", 2, env=PATIENCE, args=["read", "1", "barrier"]) as job:
        job.wait_step("stalled", {1})
        job.wait_step("waiting", {0})
        os.kill(job.launched[0].pid, signal.SIGKILL)

        def store_is_gone(state: RunState) -> bool:
            return [look.outcome for look in looks_now(state)] == ["refused"]

        state = job.wait_state(store_is_gone)
        assert all(p.ended_ns is None for p in state.processes.values() if p.role == "rank")
