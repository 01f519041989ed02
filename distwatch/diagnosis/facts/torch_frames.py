"""Frames of torch.distributed on a stack: what a thread without distwatch has called."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.state import events as ev
from distwatch.state.model import Process

COLLECTIVE_FRAMES = frozenset(
    (
        "all_reduce all_reduce_coalesced barrier broadcast broadcast_object_list all_gather all_gather_object "
        "all_gather_single all_gather_into_tensor all_gather_coalesced reduce reduce_scatter reduce_scatter_single "
        "reduce_scatter_tensor gather gather_object scatter scatter_object_list all_to_all all_to_all_single "
        "monitored_barrier send recv send_object_list recv_object_list"
    ).split()
)
_INIT_FRAMES = ("init_process_group", "rendezvous")


def is_in_init_by_stack(process: Process) -> bool:
    """Whether it was in torch's initialization when its stack was last taken."""
    return torch_frame(process.main_frames, _INIT_FRAMES) is not None


def torch_frame(frames: tuple[ev.Frame, ...], functions: Iterable[str]) -> ev.Frame | None:
    """The innermost torch.distributed frame of that name, if a thread is in one."""
    for frame in reversed(frames):
        if frame.function in functions and "distributed" in frame.file:
            return frame
    return None
