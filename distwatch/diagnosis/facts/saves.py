"""Whether a rank saves a checkpoint, and how far it is, by its stacks."""

from __future__ import annotations

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.state.events import Frame
from distwatch.state.model import Process

_LIBRARIES = ("/torch/distributed/checkpoint/", "/torch/serialization.py", "/safetensors/")
_PHASES = (
    # The innermost match counts; functions of `torch.distributed.checkpoint` in the order of a save.
    ("planning", ("create_local_plan", "create_global_plan", "prepare_global_plan", "set_up_planner")),
    ("copying to the CPU", ("stage", "_copy_state_dict", "_offload_state_dict_to_cpu")),
    ("writing the metadata", ("finish", "finish_checkpoint", "_finish")),
    ("writing", ("write_data", "_write_files_from_queue", "_write_files_per_proc", "_write_item", "save_file")),
    ("writing", ("save", "_save", "_legacy_save", "serialize_file")),
)  # fmt: skip


def save_phase(process: Process) -> str:
    """`writing`, `planning`, …: what a save in its main thread, or in one that it waits for, does; '' without one."""
    if phase := _phase(process.main_frames):
        return phase
    stack = process.outside.stack
    for thread in stack.main_first(process.pid)[1:] if stack else ():
        if phase := _phase(thread.frames):
            return f"{phase}, in thread {thread.name or thread.os_thread_id}"
    return ""


@cache_by_identity
def _phase(frames: tuple[Frame, ...]) -> str:
    inside = [f for f in frames if any(part in f.file for part in _LIBRARIES)]
    names = [frame.function.rpartition(".")[2] for frame in inside]
    if not any("save" in name or "write" in name for name in names):
        return ""
    for name in reversed(names):
        for phase, functions in _PHASES:
            if name in functions:
                return phase
    return "in it"
