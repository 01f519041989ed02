"""What a process was not given, or its machine does not have: the end by it is no second fault."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.checks.rendezvous.interfaces import names_no_interface
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import RecordedJob, judged, only_root

NO_RANK = (
    "ValueError: Error initializing torch.distributed using env:// rendezvous: "
    "environment variable RANK expected, but not set"
)
NOTHING = {"global_rank": None, "world_size": None, "endpoint": "", "hosts_store": False}


def alone(launcher: str = "unknown") -> RecordedJob:
    """A script that was started without anything, and calls init_process_group."""
    job = RecordedJob(1)
    job.status[0] = Identity(launcher=launcher)
    job.start(0)
    job.enter(0, **NOTHING)
    return job


def test_a_script_without_a_launcher() -> None:
    job = alone()
    job.refuse(0, 1.1, NO_RANK)
    verdict = only_root(job, "rendezvous.env_missing")
    assert verdict.severity == "crash"
    assert "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set" in verdict.summary
    assert "torchrun" in verdict.advice
    assert "train.py:10" in verdict.evidence[0].text
    (end,) = [f for f in judged(job) if f.code == "process.exited"]
    assert end.role == "symptom"
    assert end.culprit_ranks == ()


def test_in_a_ray_actor_the_exception_is_caught_and_the_advice_is_rays() -> None:
    job = alone("ray")
    job.refuse(0, 1.1, NO_RANK, uncaught=False)
    verdict = only_root(job, "rendezvous.env_missing")
    assert verdict.severity == "crash"
    assert 'runtime_env={"env_vars": {"RANK": ' in verdict.advice
    assert '"MASTER_PORT"' in verdict.advice


def test_only_what_is_missing_is_named() -> None:
    job = RecordedJob(2)
    job.stand(1, master_addr=None)
    job.start(0, 1)
    job.enter(0)
    job.enter(1, endpoint="")
    job.refuse(1, 1.1, NO_RANK.replace("RANK", "MASTER_ADDR"))
    verdict = only_root(job, "rendezvous.env_missing", 1)
    assert verdict.summary.startswith("MASTER_ADDR is not set for rank 1")
    assert verdict.waiting_ranks == (0,)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_a_script_that_reads_the_variable_itself(name: str) -> None:
    job = RecordedJob(1)
    job.status[0] = Identity()
    job.start(0)
    job.fail(0, 1.0, "KeyError", f"'{name}'")
    job.exit(0, 1.2, code=1)
    assert name in only_root(job, "rendezvous.env_missing").summary


def test_an_init_that_is_made_good_is_no_finding() -> None:
    job = RecordedJob(1)
    job.start(0)
    job.enter(0, **NOTHING)
    job.refuse(0, 1.1, NO_RANK, uncaught=False)
    assert [f.severity for f in judged(job)] == ["warning"]
    job.enter(0, at=2.0, step=11, number=2, endpoint="localhost:1234")
    job.form(0, at=2.5, step=11)
    job.tick(9.0)
    assert judged(job) == []


def refused(error: str, **given: object) -> RecordedJob:
    """Rank 1 fails in its initialization, and rank 0 waits for it."""
    job = RecordedJob(2)
    job.start(0, 1)
    job.enter(0)
    job.enter(1, **given)
    job.refuse(1, 1.5, error)
    job.tick(1.8)
    return job


@pytest.mark.parametrize(
    ("error", "words", "fix"),
    [
        ("KeyError: 'xla'", "torch_xla", "import torch_xla"),
        ("AssertionError: Unknown backend type xla", "torch_xla", "import torch_xla"),
        ("ModuleNotFoundError: No module named 'torch_xla'", "torch_xla", "Install the torch_xla"),
        ("RuntimeError: Distributed package doesn't have NCCL built in", "no NCCL", "CUDA build"),
        (
            "ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!",
            "sees none",
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            "RuntimeError: CUDA error: invalid device ordinal",
            "no GPU has that number",
            "LOCAL_RANK",
        ),
        (
            "torch.distributed.DistBackendError: NCCL error: Duplicate GPU detected : rank 1 and rank 0",
            "two ranks use one GPU",
            "set_device",
        ),
        ("AssertionError: Unknown backend type bogus", "does not know this backend", "plugin"),
        ("ValueError: Invalid backend: 'foo'", "does not know this backend", "plugin"),
    ],
)
def test_a_backend_that_is_not_there(error: str, words: str, fix: str) -> None:
    verdict = only_root(refused(error), "rendezvous.backend_unavailable", 1)
    assert verdict.severity == "crash"
    assert words in verdict.summary
    assert fix in verdict.advice
    assert verdict.waiting_ranks == (0,)


def test_a_package_that_is_missing_before_the_call() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.fail(1, 1.5, "ModuleNotFoundError", "No module named 'torch_xla'")
    job.exit(1, 1.7, code=1)
    only_root(job, "rendezvous.backend_unavailable", 1)


def test_the_same_on_all_ranks_is_one_finding() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    for rank in (0, 1):
        job.refuse(rank, 1.5, "RuntimeError: Distributed package doesn't have NCCL built in")
    only_root(job, "rendezvous.backend_unavailable", 0, 1)
    assert len(judged(job)) == 2


def test_in_a_running_job_such_words_are_an_exception_like_any_other() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.fail(1, 9.0, "RuntimeError", "CUDA error: invalid device ordinal")
    job.exit(1, 9.2, code=1)
    only_root(job, "process.exited", 1)


GLOO = (
    "RuntimeError: [enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. "
    "Unable to find address for: eth9"
)


def test_an_interface_that_gloo_does_not_find() -> None:
    job = refused(GLOO, variables={"GLOO_SOCKET_IFNAME": "eth9"}, interfaces=("lo", "eth0"))
    verdict = only_root(job, "rendezvous.interface_invalid", 1)
    assert verdict.severity == "crash"
    assert "GLOO_SOCKET_IFNAME=eth9" in verdict.summary
    assert "it has lo, eth0" in verdict.summary


def test_an_interface_that_is_wrong_on_all_ranks() -> None:
    job = RecordedJob(2)
    job.enter(0, 1, variables={"GLOO_SOCKET_IFNAME": "eth9"})
    for rank in (0, 1):
        job.refuse(rank, 1.5, GLOO)
    only_root(job, "rendezvous.interface_invalid", 0, 1)


def test_what_nccl_says_of_it() -> None:
    said = "torch.distributed.DistBackendError: NCCL error: Bootstrap : no socket interface found"
    job = refused(said, backend="nccl", variables={"NCCL_SOCKET_IFNAME": "ib"})
    only_root(job, "rendezvous.interface_invalid", 1)


def test_it_is_known_from_the_plan_before_anything_fails() -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.enter(0)
    job.enter(1, variables={"GLOO_SOCKET_IFNAME": "eth9"})
    job.tick(1.2)
    assert only_root(job, "rendezvous.interface_invalid", 1).severity == "hang"


def test_a_variable_that_the_backend_does_not_read() -> None:
    job = RecordedJob(2)
    job.enter(0, 1, variables={"NCCL_SOCKET_IFNAME": "eth9"})
    job.form(0, 1)
    job.tick(9.0)
    assert judged(job) == []


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0", False),
        ("GLOO_SOCKET_IFNAME", "eth", True),
        ("GLOO_SOCKET_IFNAME", "eth0,ib0", False),
        ("GLOO_SOCKET_IFNAME", "eth0,ib7", True),
        ("NCCL_SOCKET_IFNAME", "eth", False),
        ("NCCL_SOCKET_IFNAME", "=eth", True),
        ("NCCL_SOCKET_IFNAME", "=eth0", False),
        ("NCCL_SOCKET_IFNAME", "ens,ib", False),
        ("NCCL_SOCKET_IFNAME", "ens", True),
        ("NCCL_SOCKET_IFNAME", "^docker,lo", False),
        ("NCCL_SOCKET_IFNAME", "^lo,eth,ib", True),
        ("NCCL_SOCKET_IFNAME", "^=eth,lo", False),
    ],
)
def test_how_values_are_read(name: str, value: str, wrong: bool) -> None:
    assert names_no_interface(name, value, ("lo", "eth0", "ib0")) is wrong
