"""Problems in a process's environment that will make its initialization fail.

Runs in the job: uses only the standard library and msgspec, and asks torch only where torch is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from distwatch.agent.initialization.environment import Launched, read_environment, unfit
from distwatch.preflight.accelerators import backend_findings, gpu_findings, host_gpus
from distwatch.preflight.endpoint import endpoint_findings, own_name_finding
from distwatch.preflight.interfaces import interface_findings, read_interfaces
from distwatch.state.bounds import whole_number
from distwatch.state.finding import Evidence, Finding
from distwatch.state.identity import Identity, identify
from distwatch.state.rank_sets import agree

_NODES = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "GROUP_WORLD_SIZE",
          "PET_NNODES", "CROSS_SIZE")  # fmt: skip
DEBUG_LEVELS = ("OFF", "INFO", "DETAIL")


def check(
    environ: Mapping[str, str] | None = None, *, backend: str | None = None, pid: int | None = None
) -> list[Finding]:
    """Problems in an environment that will stop or hurt a rank; empty where it is sound.

    Resolves MASTER_ADDR and may connect to it (2 s at most); starts nothing and waits for no rank.

    Args:
        environ: default: this process's.
        backend: the one that `init_process_group` will get.
        pid: of the process with that environment, on this host; default: this one.
    """
    env = os.environ if environ is None else environ
    launched, identity = read_environment(env), identify(env)
    several = (count_nodes(env, identity) or 1) > 1
    gpus = host_gpus()
    uses_nccl = "nccl" in (backend or ("nccl" if gpus != 0 else ""))
    found = [
        *_place_findings(env, launched, identity),
        *_debug_level(env),
        *endpoint_findings(launched, env, several_nodes=several, pid=pid or os.getpid()),
        *interface_findings(env, read_interfaces(), several_nodes=several, uses_nccl=uses_nccl),
        *backend_findings(backend or "", launched, env),
        *gpu_findings(env, launched, nccl="nccl" in (backend or "")),
    ]
    if not env.get("GLOO_SOCKET_IFNAME"):
        own_name = own_name_finding(several, gloo_only=backend == "gloo" or gpus == 0)
        found += [own_name] if own_name is not None else []
    foreseen = (finding.before_launch() for finding in found)
    return sorted(foreseen, key=lambda finding: (not finding.blocks, finding.severity == "info"))


def count_nodes(environ: Mapping[str, str], identity: Identity) -> int | None:
    """How many nodes the launcher says the job has; None where it does not say."""
    for name in _NODES:
        if nodes := whole_number(environ.get(name)):
            return nodes
    world, local = identity.world_size, identity.local_world_size
    return -(-world // local) if world and local else None


def derived_variables(launched: Launched) -> dict[str, str]:
    """torch's variables with the values that distwatch derived for this process."""
    values = {"RANK": launched.global_rank, "WORLD_SIZE": launched.world_size,
              "LOCAL_RANK": launched.local_rank, "LOCAL_WORLD_SIZE": launched.local_world_size}  # fmt: skip
    told = {name: str(value) for name, value in values.items() if value is not None}
    if launched.method == "env" and launched.endpoint:
        host, _, port = launched.endpoint.rpartition(":")
        told |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    return told


def _place_findings(
    environ: Mapping[str, str], launched: Launched, identity: Identity
) -> list[Finding]:
    stopped = unfit(launched)
    if stopped is not None:
        return [stopped]
    found = [*_local_place(launched, identity), *_same_rank_for_all(environ, identity)]
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    unset = [name for name in needed if not environ.get(name)]
    if launched.method == "env" and unset:
        told = [f"{name}={value}" for name, value in derived_variables(launched).items() if name in unset]  # fmt: skip
        found.append(
            Finding(
                code="rendezvous.env_missing",
                severity="info",
                summary=f"{', '.join(unset)} {agree(unset, 'is', 'are')} not set: distwatch.initialize derives "
                f"{', '.join(told)}, but init_process_group needs {agree(unset, 'it', 'them')} set",
                advice='Use distwatch.initialize, or eval "$(distwatch env -o sh)" in each task.',
                evidence=tuple(Evidence("proc", text) for text in launched.derived),
            )
        )
    return found


def _local_place(launched: Launched, identity: Identity) -> list[Finding]:
    rank, local, size = launched.global_rank, identity.local_rank, identity.local_world_size
    world = launched.world_size
    culprits = () if rank is None else (rank,)
    if local is not None and size is not None and local >= size:
        what = f"LOCAL_RANK {local} is out of range: with LOCAL_WORLD_SIZE={size} it is 0 to {size - 1}"
        code = "rendezvous.rank_out_of_range"
    elif size is not None and world is not None and size > world:
        what = f"LOCAL_WORLD_SIZE={size} is more than WORLD_SIZE={world}"
        code = "rendezvous.world_size_disagrees"
    else:
        return []
    advice = "Correct the launcher's arguments: ranks per node, nodes and world size must agree."
    evidence = (Evidence("proc", what, rank),)
    return [
        Finding(code=code, severity="crash", culprit_ranks=culprits, summary=what, advice=advice, evidence=evidence)
    ]  # fmt: skip


def _same_rank_for_all(environ: Mapping[str, str], identity: Identity) -> list[Finding]:
    """A batch script that exports RANK gives every task the same one."""
    task, rank = environ.get("SLURM_PROCID", ""), environ.get("RANK", "")
    tasks = environ.get("SLURM_NTASKS", "")
    if identity.launcher != "slurm" or not rank or (whole_number(tasks) or 0) < 2:
        return []
    if whole_number(task) is None or task == rank or str(identity.world_size) != tasks:
        return []
    what = (
        f"RANK={rank} in Slurm task {task} of {tasks}: a RANK that the batch script exports is the "
        "same in every task"
    )
    return [
        Finding(
            code="rendezvous.rank_duplicated",
            severity="warning",
            summary=what,
            advice="Set it per task: srun bash -c 'RANK=$SLURM_PROCID … python train.py'.",
            evidence=(Evidence("proc", what),),
            confidence=0.6,
        )
    ]


def _debug_level(environ: Mapping[str, str]) -> list[Finding]:
    level = environ.get("TORCH_DISTRIBUTED_DEBUG")
    if level is None or level.upper() in ("OFF", "INFO"):
        return []
    if level.upper() == "DETAIL":
        what = "TORCH_DISTRIBUTED_DEBUG=DETAIL checks every collective: small ones take about 8 times longer"
        advice = "Set it on all ranks or on none; distwatch finds mismatches without it."
    else:
        what = f"TORCH_DISTRIBUTED_DEBUG={level!r} makes init_process_group raise ValueError"
        advice = f"Set it to {', '.join(DEBUG_LEVELS)}, or unset it."
    return [
        Finding(
            code="rendezvous.config_disagrees",
            severity="info" if level.upper() == "DETAIL" else "crash",
            summary=what,
            advice=advice,
            evidence=(Evidence("proc", f"TORCH_DISTRIBUTED_DEBUG={level}"),),
        )
    ]
