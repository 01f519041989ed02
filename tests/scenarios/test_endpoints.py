"""The place where ranks are to meet: taken, unknown, closed, killed or frozen on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, Job, free_port, launch_ranks, single_process
from tests.support.verdicts import assert_verdict

HOWS = ["torch", "initialize"]
TAKEN = "rendezvous.port_taken"
UNREACHABLE = "rendezvous.store_unreachable"
LISTEN = {
    "another protocol": "http.server.HTTPServer(place, http.server.SimpleHTTPRequestHandler)",
    "a mute listener": "socket.create_server(place)",
}


@pytest.fixture(params=LISTEN)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Another program's pid, and the port that it listens on."""
    code = (
        "import http.server, socket, sys\nplace = ('127.0.0.1', 0)\n"
        f"server = {LISTEN[request.param]}\n"
        "address = server.server_address if hasattr(server, 'server_address') else server.getsockname()\n"
        "print(address[1], flush=True)\n"
        "server.serve_forever() if hasattr(server, 'serve_forever') else sys.stdin.read()\n"
    )
    program = tmp_path / "the_other_program.py"
    program.write_text(code)
    command = [sys.executable, str(program)]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize("how", HOWS)
def test_a_port_that_another_program_has(how: str, foreign: tuple[int, int]) -> None:
    pid, port = foreign
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_HOW": how}
    with launch_ranks("forms", 2, port=port, env=env, args=["wait_at_the_end"]) as job:
        job.wait_verdict(TAKEN, set(), mentions=(f"pid {pid}", "the_other_program.py"))
        if how == "initialize":
            codes = {outcome["code"] for outcome in outcomes_of(job, {0, 1}).values()}
            assert codes == {TAKEN}


@pytest.mark.parametrize("how", HOWS)
def test_a_name_that_does_not_resolve(how: str) -> None:
    env = {"TEST_HOW": how, "MASTER_ADDR": "no-such-host.invalid"}
    with launch_ranks("forms", 2, ranks=[1], env=env, args=["wait_at_the_end"]) as job:
        job.wait_verdict(UNREACHABLE, {1}, mentions=("no-such-host.invalid",))
        if how == "initialize":
            (outcome,) = outcomes_of(job, {1}).values()
            assert (outcome["type"], outcome["code"]) == ("InitTimeout", UNREACHABLE)


@pytest.mark.parametrize("how", HOWS)
def test_the_host_of_the_store_is_killed_on_the_way(how: str) -> None:
    codes = ("rendezvous.store_lost", "process.killed")
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_HOW": how}
    with launch_ranks("forms", 3, ranks=[0, 1], env=env, args=["wait_at_the_end"]) as job:
        job.wait_state(is_met_by(1))
        job.kill(0)
        job.wait_verdict(codes, {0})
        if how == "initialize":
            (outcome,) = outcomes_of(job, {1}).values()
            assert outcome["code"] in codes
            assert outcome["culprits"] == [0]


@pytest.mark.parametrize("how", HOWS)
def test_the_host_of_the_store_is_stopped_on_the_way(how: str) -> None:
    env = {"DISTWATCH_DEADLINES": PATIENT, "TEST_HOW": how}
    with launch_ranks("forms", 3, ranks=[0, 1], env=env, args=["wait_at_the_end"]) as job:
        job.wait_state(is_met_by(1))
        job.kill(0, signal.SIGSTOP)
        job.wait_verdict("process.stopped", {0})
        if how == "initialize":
            (outcome,) = outcomes_of(job, {1}).values()
            assert outcome["code"] == "process.stopped"


def is_met_by(rank: int) -> Callable[[RunState], bool]:
    """Whether the observer has seen that rank at the store."""

    def met(state: RunState) -> bool:
        looks = [look for host in state.hosts.values() for look in host.endpoints.values()]
        return any(look.outcome == "store" and rank in look.arrived for look in looks) or any(
            (look.clients or 0) > 1 for look in looks
        )

    return met


def assert_told_at_the_end(
    job: Job, code: str, culprits: set[int], mentions: tuple[str, ...]
) -> Finding:
    """A job that fails at once may have ended before an observer has come: its journal tells it."""
    assert job.wait_ended() == [1]
    return assert_verdict(diagnose(job.state()), code=code, culprits=culprits, mentions=mentions)


@pytest.mark.parametrize(
    ("backend", "words"), [("xla", "torch_xla"), ("nccl", "nccl")], ids=["xla", "nccl"]
)
@pytest.mark.parametrize("how", HOWS)
def test_a_backend_that_is_not_there(how: str, backend: str, words: str) -> None:
    env = {"TEST_HOW": how, "TEST_BACKEND": backend}
    with launch_ranks("forms", 1, env=env, args=["wait_at_the_end"]) as job:
        assert_told_at_the_end(job, "rendezvous.backend_unavailable", {0}, (words,))


def test_an_interface_that_is_not_there() -> None:
    each = {1: {"GLOO_SOCKET_IFNAME": "no-such-if0"}}
    with launch_ranks("forms", 2, env_of=each, args=["wait_at_the_end"]) as job:
        job.wait_verdict("rendezvous.interface_invalid", {1}, mentions=("no-such-if0", "lo"))


@pytest.mark.parametrize("how", HOWS)
def test_variables_that_no_launcher_has_set(how: str) -> None:
    env = {"TEST_HOW": how, "WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    with single_process("forms", env=env, args=["wait_at_the_end"]) as job:
        assert_told_at_the_end(job, "rendezvous.env_missing", set(), ("RANK",))


def test_a_ray_actor_is_told_how_to_pass_them() -> None:
    env = {"RAY_RAYLET_PID": str(os.getpid()), "RAY_JOB_ID": "01000000"}
    with single_process("forms", env=env, args=["wait_at_the_end"]) as job:
        finding = assert_told_at_the_end(job, "rendezvous.env_missing", set(), ("RANK",))
        assert "runtime_env" in finding.advice


def test_a_listener_of_the_job_itself_is_no_foreign_one() -> None:
    """Rank 0 listens, and rank 2 never starts: nobody may call the port taken."""
    with launch_ranks("forms", 3, ranks=[0, 1], args=["wait_at_the_end"]) as job:
        job.wait_verdict("rendezvous.rank_never_started", {2})
        assert not any(finding.code == TAKEN for finding in job.judged_blocking())
