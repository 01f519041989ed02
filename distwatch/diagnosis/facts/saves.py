"""Whether a rank saves a checkpoint, and how far it is, by its stacks."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.state.events import Frame, WrittenFile
from distwatch.state.finding import Evidence
from distwatch.state.model import Process
from distwatch.state.quantities import bytes_text, seconds

_STILL_S = 2.0

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


def save_evidence(case: Case, process: Process, rank: int) -> Iterable[Evidence]:
    """How far its save is: the bytes of each file so far, since when no more, and the storage."""
    written = process.outside.written
    for file in written.files if written is not None and process.ended_ns is None else ():
        yield Evidence("proc", f"rank {rank} {file_text(case, process, file)}", rank)


def file_text(case: Case, process: Process, file: WrittenFile) -> str:
    """`has written 1.2 GiB of /ckpt/part-1 so far, no more of it for 14 s (nfs4 a:/x at /ckpt, 3 GiB free)`."""
    still_s = case.job.age_s(process, file.unchanged_since_ns) if file.unchanged_since_ns else 0.0
    still = f", no more of it for {seconds(still_s)}" if still_s >= _STILL_S else ""
    mounted = " ".join(filter(None, (file.storage, file.source)))
    where = f"{mounted} at {file.mount}" if file.mount else mounted
    free = f"{bytes_text(file.free_bytes)} free" if file.free_bytes is not None else ""
    storage = ", ".join(filter(None, (where, free)))
    on = f" ({storage})" if storage else ""
    return f"has written {bytes_text(file.written_bytes)} of {file.path} so far{still}{on}"


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
