"""Who a process is, from the variables of each launcher."""

from __future__ import annotations

import pytest

from distwatch.state.identity import identify

TORCH = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}
STORE = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("launcher", "variables", "expected"),
    [
        (
            "torchrun",
            {
                **TORCH,
                **STORE,
                "GROUP_RANK": "1",
                "TORCHELASTIC_RUN_ID": "abc",
                "TORCHELASTIC_RESTART_COUNT": "2",
            },
            (3, 1, 1, 8, 2, 2, "abc"),
        ),
        (
            "torchrun",
            {**TORCH, **STORE, "TORCHELASTIC_RUN_ID": "none"},
            (3, 1, None, 8, 2, 0, "10.0.0.1-29500"),
        ),
        (
            "slurm",
            {
                "SLURM_PROCID": "3",
                "SLURM_LOCALID": "1",
                "SLURM_NODEID": "1",
                "SLURM_NTASKS": "8",
                "SLURM_JOB_ID": "77",
                "SLURM_STEP_ID": "0",
                "SLURM_RESTART_COUNT": "1",
            },
            (3, 1, 1, 8, None, 1, "slurm-77.0"),
        ),
        (
            "mpi",
            {
                "OMPI_COMM_WORLD_RANK": "3",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            (3, 1, None, 8, 2, 0, None),
        ),
        (
            "mpi",
            {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1"},
            (3, 1, None, 8, None, 0, None),
        ),
        ("mpi", {"PMIX_RANK": "3", "PMIX_SIZE": "8"}, (3, None, None, 8, None, 0, None)),
        (
            "deepspeed",
            {**TORCH, **STORE, "CROSS_RANK": "1", "CROSS_SIZE": "4"},
            (3, 1, 1, 8, 2, 0, "10.0.0.1-29500"),
        ),
        (
            "accelerate",
            {**TORCH, **STORE, "ACCELERATE_MIXED_PRECISION": "bf16"},
            (3, 1, None, 8, 2, 0, "10.0.0.1-29500"),
        ),
        (
            "ray",
            {**TORCH, "RAY_RAYLET_PID": "9", "RAY_JOB_ID": "01000000"},
            (3, 1, None, 8, 2, 0, "ray-01000000"),
        ),
        (
            "ray",
            {**TORCH, "RAY_RAYLET_PID": "9", "RAY_JOB_ID": "ffffffff"},
            (3, 1, None, 8, 2, 0, None),
        ),
        (
            "kubeflow",
            {**TORCH, **STORE, "PET_NNODES": "4", "PET_NODE_RANK": "1"},
            (3, 1, 1, 8, 2, 0, "10.0.0.1-29500"),
        ),
        (
            "env",
            {"RANK": "3", "WORLD_SIZE": "8", **STORE},
            (3, None, None, 8, None, 0, "10.0.0.1-29500"),
        ),
        ("unknown", {}, (None, None, None, None, None, 0, None)),
    ],
)
def test_each_launcher(
    launcher: str, variables: dict[str, str], expected: tuple[int | str | None, ...]
) -> None:
    identity = identify(variables)
    assert identity.launcher == launcher
    assert (
        identity.global_rank,
        identity.local_rank,
        identity.node_rank,
        identity.world_size,
        identity.local_world_size,
        identity.restart,
        identity.launch_id,
    ) == expected


def test_torchs_own_variables_win_over_the_launchers() -> None:
    assert identify({"SLURM_PROCID": "7", "RANK": "2"}).global_rank == 2


@pytest.mark.parametrize("value", ["", "one", "-1", "³", "1.5"])
def test_what_is_no_number_counts_as_unset(value: str) -> None:
    assert identify({"RANK": value, "WORLD_SIZE": "2"}).global_rank is None
