"""A rank's place from every launcher's variables."""

from __future__ import annotations

import pytest

from distwatch.agent.initialization.environment import Launched, first_host, read_environment, unfit

TORCHRUN = {
    "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
PLAIN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "123456",
}  # fmt: skip


def test_torchrun() -> None:
    launched = read_environment(TORCHRUN)
    assert (launched.global_rank, launched.world_size, launched.local_rank) == (3, 4, 1)
    assert (launched.endpoint, launched.attempt) == ("node1:29500", 2)
    assert launched.store_host == "torchrun's agent"
    assert not read_environment({**TORCHRUN, "RANK": "0"}).hosts_store
    assert unfit(launched) is None


def test_a_plain_environment() -> None:
    launched = read_environment(PLAIN)
    assert (launched.method, launched.endpoint) == ("env", "10.0.0.1:29500")
    assert launched.hosts_store
    assert not launched.derived


def test_slurm_gives_what_torch_would_miss() -> None:
    launched = read_environment(SLURM)
    assert (launched.global_rank, launched.world_size, launched.local_rank) == (5, 8, 1)
    assert launched.endpoint == f"gpu07:{20000 + 123456 % 10000}"
    assert len(launched.derived) == 3
    assert unfit(launched) is None


def test_what_slurm_users_export_themselves_wins() -> None:
    launched = read_environment({**SLURM, "MASTER_ADDR": "ib0-gpu07", "MASTER_PORT": "1234"})
    assert launched.endpoint == "ib0-gpu07:1234"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "node3"),
        ("node[03-05,9],x1", "node03"),
        ("a-b-[1,2]", "a-b-1"),
        ("x1,y2", "x1"),
        ("rack[1-2]-n", "rack1-n"),
        ("", None),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes: str, first: str | None) -> None:
    assert first_host(nodes) == first


def test_a_process_that_nobody_launched_is_a_world_of_its_own() -> None:
    launched = read_environment({"HOME": "/root"})
    assert (launched.method, launched.global_rank, launched.world_size) == ("alone", 0, 1)
    assert unfit(launched) is None


def test_a_world_of_one_needs_no_endpoint() -> None:
    assert read_environment({"RANK": "0", "WORLD_SIZE": "1"}).method == "alone"


@pytest.mark.parametrize("left_out", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_missing_is_named(left_out: str) -> None:
    environ = {name: value for name, value in PLAIN.items() if name != left_out}
    finding = unfit(read_environment(environ))
    assert finding is not None
    assert finding.code == "rendezvous.env_missing"
    assert left_out in finding.summary
    assert set(finding.culprit_ranks) <= {0}
    assert "torchrun" in finding.advice


def test_in_a_ray_actor_the_advice_is_rays() -> None:
    finding = unfit(read_environment({"RAY_RAYLET_PID": "7", "RAY_JOB_ID": "01000000"}))
    assert finding is not None
    assert "runtime_env" in finding.advice
    assert '"RANK"' in finding.advice


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": "zero"}, "RANK='zero' is not a number"),
        ({"MASTER_PORT": "70000"}, "not a port"),
        ({"WORLD_SIZE": "0"}, "at least one rank"),
    ],
)
def test_values_that_make_no_sense_are_named(changed: dict[str, str], words: str) -> None:
    finding = unfit(read_environment({**PLAIN, **changed}))
    assert finding is not None
    assert words in finding.summary


def test_a_rank_beyond_the_world() -> None:
    finding = unfit(read_environment({**PLAIN, "RANK": "2"}))
    assert finding is not None
    assert (finding.code, finding.culprit_ranks) == ("rendezvous.rank_out_of_range", (2,))


def test_arguments_win_over_everything() -> None:
    launched = read_environment(TORCHRUN, init_method="tcp://[::1]:77?rank=1", world_size=2)
    assert launched == Launched(
        global_rank=1, world_size=2, local_rank=1, local_world_size=2, method="tcp", endpoint="[::1]:77",
        attempt=2, launcher="torchrun", store_host="torchrun's agent",
    )  # fmt: skip


def test_a_file_to_meet_at() -> None:
    launched = read_environment({}, init_method="file:///shared/meet", global_rank=0, world_size=2)
    assert (launched.method, launched.endpoint) == ("file", "/shared/meet")
    assert not launched.hosts_store
    assert unfit(launched) is None
