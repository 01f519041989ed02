"""What ranks without distwatch wait in, by their stacks alone: no deadline was ever set for them."""

from __future__ import annotations

from distwatch.diagnosis.facts.job import Job
from distwatch.state.model import Process

STILL_S = 4.5
"""A stack that is the same in two looks so far apart hangs: whoever attaches to such a job knows that it hangs."""
BACKWARD = "backward"
_CREATIONS = ("new_group", "split_group", "init_device_mesh")
_AUTOGRAD = ("/torch/autograd/graph.py", "/torch/autograd/__init__.py")
_IDLE_SHARE = 0.1


def is_seen_from_outside(job: Job) -> bool:
    """Whether no rank of this world has distwatch in it."""
    return bool(job.ranks) and not any(process.instrumented for process in job.ranks.values())


def still_s(process: Process) -> float:
    """Between the looks at it, for how long its stack was the same; 0 where it is gone or nobody looked.

    Of a single look at a job that hangs (a file that somebody left), STILL_S.
    """
    stack = process.outside.stack
    if stack is None or process.ended_ns is not None:
        return 0.0
    if stack.unchanged_since_ns is None:
        return STILL_S
    return ((process.outside.stack_ns or 0) - stack.unchanged_since_ns) / 1e9


def waits_in_by_stack(job: Job, process: Process) -> str:
    """The collective, send, recv or group creation that its main thread waits in; '' where it is in none."""
    if call := job.in_collective_by_stack(process):
        return call
    if frame := job.frame_of(process, _CREATIONS):
        return frame.function
    return BACKWARD if _idles_in_backward(process) else ""


def _idles_in_backward(process: Process) -> bool:
    """DDP and FSDP communicate from autograd's own thread; the main thread sleeps meanwhile."""
    frames, sample = process.main_frames, process.outside.sample
    if not frames or not any(frame.file.endswith(_AUTOGRAD) for frame in frames[-3:]):
        return False
    flow = sample.flow if sample is not None else None
    if flow is None or not flow.over_s:
        return sample is not None and sample.syscall == "futex"
    return flow.cpu_s < _IDLE_SHARE * flow.over_s


def sleeps_with_gil(process: Process) -> bool:
    """Whether a thread of it holds the GIL while the process sleeps: no Python code releases it so."""
    sample, stack = process.outside.sample, process.outside.stack
    if sample is None or stack is None or sample.state != "S" or still_s(process) < STILL_S:
        return False
    main = stack.main_thread(process.pid)
    return main is not None and main.owns_gil
