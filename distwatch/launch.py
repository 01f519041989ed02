"""The launcher's name for a job. Pure and without imports: it runs at the start of every process."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def launch_id(environ: Mapping[str, str]) -> str | None:
    """The launcher's name for this job; None without one."""
    elastic = environ.get("TORCHELASTIC_RUN_ID")
    # torchrun without --rdzv-id calls every job "none", which names nothing.
    if elastic and elastic != "none":
        return elastic
    if job := environ.get("SLURM_JOB_ID"):
        step = environ.get("SLURM_STEP_ID")
        return f"slurm-{job}.{step}" if step else f"slurm-{job}"
    ray_job = environ.get("RAY_JOB_ID")
    if ray_job and set(ray_job.lower()) != {"f"}:
        return f"ray-{ray_job}"
    addr, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    return f"{addr}-{port}" if addr and port else None


_NIL_JOB = {"f"}
"""The digits of the id of no job."""


def run_of_ray_job(job: str, session: str) -> str:
    """The name of the run that all workers of a Ray job join, from its job id and cluster session.

    Every cluster counts its jobs from 1, so the cluster's start time is part of the name.
    """
    began = session.split("_")[1:3]
    return "-".join(["ray", job, *("".join(c for c in part if c.isdigit()) for part in began)])


def ray_run_name() -> str:
    """The run that this process's Ray job has; '' where Ray names no job."""
    import ray

    context = ray.get_runtime_context()
    job = context.get_job_id()
    if not job or set(job) == _NIL_JOB:
        return ""
    try:
        session = context.get_session_name()
    except (AttributeError, RuntimeError):  # an older Ray has no such name
        session = ""
    return run_of_ray_job(job, session)


def connected_ray_run_name() -> str:
    """As `ray_run_name`; '' before a process has connected to Ray, and in all other programs."""
    is_connected = getattr(sys.modules.get("ray"), "is_initialized", None)
    return ray_run_name() if is_connected is not None and is_connected() else ""
