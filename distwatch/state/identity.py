"""Who a process is in its job, according to its launcher's environment.

The environment is a hint: `dist.get_rank()` is the truth once a process group exists
(the agent then journals `IdentityConfirmed`).
"""

from __future__ import annotations

from collections.abc import Mapping

from distwatch.launch import launch_id
from distwatch.state.bounds import Bounded, first_number

IDENTITY_PARTS = ("launcher", "launch_id", "master_addr")
"""What all processes of a job have in common."""


class Identity(Bounded, frozen=True, kw_only=True):
    """A process's place in the job. `None`: the launcher does not say."""

    launcher: str = "unknown"
    launch_id: str | None = None
    """The launcher's name for this job (TORCHELASTIC_RUN_ID, SLURM_JOB_ID, …)."""
    restart: int = 0
    global_rank: int | None = None
    local_rank: int | None = None
    node_rank: int | None = None
    world_size: int | None = None
    local_world_size: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    """The launcher hosts the store (TORCHELASTIC_USE_AGENT_STORE), not rank 0."""
    task: int | None = None
    """The number of its Slurm or MPI task, whatever RANK says."""
    tasks: int | None = None
    """How many tasks Slurm or MPI started, whatever WORLD_SIZE says."""

    @property
    def endpoint(self) -> str | None:
        """`MASTER_ADDR:MASTER_PORT`, or None where one of them is unknown."""
        if self.master_addr is None or self.master_port is None:
            return None
        return f"{self.master_addr}:{self.master_port}"

    @property
    def single_node(self) -> bool:
        """True where the launcher says that every rank runs on this node."""
        return self.world_size is not None and self.local_world_size == self.world_size


_TASKS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "PMIX_SIZE"),
)
_OWN = "RANK LOCAL_RANK NODE_RANK WORLD_SIZE LOCAL_WORLD_SIZE"
_LAUNCHERS = (
    # launcher, the variable that gives it away, names of rank, local rank, node rank and both sizes
    ("torchrun", "TORCHELASTIC_RUN_ID", "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE"),
    ("ray", "RAY_RAYLET_PID", _OWN),
    ("deepspeed", "CROSS_SIZE", "RANK LOCAL_RANK CROSS_RANK WORLD_SIZE LOCAL_SIZE"),
    (
        "accelerate",
        "ACCELERATE_MIXED_PRECISION",
        "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE",
    ),
    ("kubeflow", "PET_NNODES", "RANK LOCAL_RANK PET_NODE_RANK WORLD_SIZE LOCAL_WORLD_SIZE"),
    (
        "slurm",
        "SLURM_PROCID",
        "SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_NTASKS SLURM_NTASKS_PER_NODE",
    ),
    (
        "mpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_NODE_RANK "
        "OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("mpi", "PMI_RANK", "PMI_RANK MPI_LOCALRANKID MPI_NODE_RANK PMI_SIZE MPI_LOCALNRANKS"),
    ("mpi", "PMIX_RANK", "PMIX_RANK LOCAL_RANK NODE_RANK PMIX_SIZE LOCAL_SIZE"),
    ("env", "RANK", _OWN),
)


def identify(environ: Mapping[str, str]) -> Identity:
    """Reads a process's identity from its launcher's variables.

    torch's own names (RANK, WORLD_SIZE, …) win over the launcher's where both are set: a
    script under Slurm that exports RANK means it. A value that is not a number counts as unset.

    Args:
        environ: the environment of that process, its own or read from /proc.
    """
    launcher, names = next(
        ((name, names) for name, telltale, names in _LAUNCHERS if environ.get(telltale)),
        ("unknown", _OWN),
    )
    global_rank, local_rank, node_rank, world_size, local_world_size = (
        first_number(environ.get(own), environ.get(name))
        for own, name in zip(_OWN.split(), names.split(), strict=True)
    )
    restarts = environ.get("TORCHELASTIC_RESTART_COUNT")
    task, tasks = next((names for names in _TASKS if environ.get(names[0])), _TASKS[0])
    return Identity(
        launcher=launcher,
        launch_id=launch_id(environ),
        restart=first_number(restarts, environ.get("SLURM_RESTART_COUNT")) or 0,
        master_addr=environ.get("MASTER_ADDR") or None,
        master_port=first_number(environ.get("MASTER_PORT")),
        agent_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        task=first_number(environ.get(task)),
        tasks=first_number(environ.get(tasks)),
        global_rank=global_rank,
        local_rank=local_rank,
        node_rank=node_rank,
        world_size=world_size,
        local_world_size=local_world_size,
    )
