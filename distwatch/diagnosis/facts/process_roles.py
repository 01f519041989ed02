"""What a process of the run is: a rank, or what else it does in the job."""

from __future__ import annotations

from distwatch.diagnosis.facts.user_frame import is_of_library
from distwatch.state.model import Process, RunState

_POOLS = ("multiprocessing/pool.py", "concurrent/futures/process.py")
_SPAWNED = "multiprocessing.spawn import spawn_main"
_RAY = ("-packages/ray/", "ray::")
"""In the command line of Ray's own services and workers: the package's path, or the title that it gives a worker."""
_RAYLET = "-packages/ray/core/src/ray/raylet/"


def role_text(state: RunState, process: Process) -> str:
    """`rank 3`, launcher, driver, actor, data worker, pool worker, child process, converter, or no rank yet."""
    if process.role == "launcher":
        return "launcher"
    if process.role == "rank" and process.global_rank is not None:
        return f"rank {process.global_rank}"
    if is_driver(state, process):
        return "driver"
    if process.actor or _runs_actor(process):
        return "actor"
    if process.role == "dataloader":
        return "data worker"
    if _is_in_pool(state, process):
        return "pool worker"
    if process.role == "child" or _is_rays(process):
        return "child process"  # Ray's own services, too
    return "converter" if "convert" in script_of(process) else "no rank yet"


def is_driver(state: RunState, process: Process) -> bool:
    """Whether it is the driver of a Ray job, by Ray's own table of jobs, or since it has started a raylet."""
    jobs = state.hosts[process.host].ray.jobs if process.host in state.hosts else {}
    if any(job.driver_pid == process.pid and not job.ended for job in jobs.values()):
        return True
    return not _is_rays(process) and any(
        (child.ppid, child.host) == (process.pid, process.host)
        and any(_RAYLET in argument for argument in child.command[:1])
        for child in state.processes.values()
    )


def _is_rays(process: Process) -> bool:
    return any(word in argument for argument in process.command for word in _RAY)


def _runs_actor(process: Process) -> bool:
    """Whether it is a worker of Ray in a method of an actor, by its title or its stack."""
    if not _is_rays(process):
        return False
    stack = process.outside.stack
    return process.command[0].startswith("ray::") or any(
        "actor_method_executor" in frame.function
        for thread in (stack.threads if stack is not None else ())
        for frame in thread.frames
    )


def script_of(process: Process) -> str:
    """The file that its interpreter runs, without folders; '' where the command line names none."""
    scripts = (one for one in process.command[1:] if one.endswith(".py"))
    return next(scripts, "").rpartition("/")[2]


def works(process: Process) -> bool:
    """False for a worker of a pool that waits for its next task: nothing of it is inside the pool's loop."""
    frames = process.main_frames
    loops = [number for number, frame in enumerate(frames) if frame.file.endswith(_POOLS)]
    return not loops or any(not is_of_library(frame) for frame in frames[loops[-1] :])


def _is_in_pool(state: RunState, process: Process) -> bool:
    """Whether a pool of multiprocessing or concurrent.futures runs it, by its stack."""
    if any(frame.file.endswith(_POOLS) for frame in process.main_frames):
        parent = _parent(state, process)
        spawned = any(_SPAWNED in argument for argument in process.command)
        return spawned or (parent is not None and parent.command == process.command)
    return False


def _parent(state: RunState, process: Process) -> Process | None:
    return next(
        (p for p in state.processes.values() if p.pid == process.ppid and p.host == process.host),
        None,
    )
