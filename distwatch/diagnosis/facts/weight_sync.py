"""Which part of a weight sync a process is in, by its stack: from training ranks to inference engines."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.diagnosis.facts.user_frame import work_frames
from distwatch.state.events import Frame
from distwatch.state.model import Process

Part = Literal["convert", "gather", "broadcast", "load"]
Side = Literal["training", "engine", ""]

# What RLinf, verl, slime, SGLang and vLLM call it; the same names are used on both sides.
_TRAINING = frozenset({"sync_model_to_rollout", "sync_model_to_inference", "rollout_mode"})
_ENGINE = frozenset({"sync_model_from_actor", "sync_hf_weight", "update_weights_from_tensor"})
_EITHER = frozenset(
    {"update_weights", "update_weight", "update_weights_from_distributed", "sync_weights"}
)
_ENGINES = re.compile(r"/(sglang|vllm|rollout|inference)/")
_WORDS: dict[str, Part] = {
    **dict.fromkeys(("convert", "converter", "convertor", "reshard", "export"), "convert"),
    **dict.fromkeys(("gather", "allgather", "full", "summon"), "gather"),
    **dict.fromkeys(("broadcast", "send", "recv", "isend", "irecv"), "broadcast"),
    **dict.fromkeys(("load", "copy", "flush"), "load"),
}


class WeightSync(msgspec.Struct, frozen=True):
    """`load (engine)`: the innermost part whose function says so, and the side that it is on."""

    part: Part
    side: Side = ""

    def __str__(self) -> str:
        return f"{self.part} ({self.side})" if self.side else self.part


def weight_sync_of(process: Process) -> WeightSync | None:
    """None where its stack shows no function of a weight sync, or none of its parts."""
    return weight_sync_in(work_frames(process))


@cache_by_identity
def weight_sync_in(frames: tuple[Frame, ...]) -> WeightSync | None:
    """As `weight_sync_of`, by a stack."""
    sides = [(number, side) for number, f in enumerate(frames) if (side := _side(f)) is not None]
    if not sides:
        return None
    outermost = sides[0][0]
    for frame in reversed(frames[outermost:]):
        for word in _name(frame).split("_"):
            if part := _WORDS.get(word):
                return WeightSync(part, next((side for _, side in sides if side), ""))
    return None


def _side(frame: Frame) -> Side | None:
    name = _name(frame)
    if name in _TRAINING:
        return "training"
    if name in _ENGINE:
        return "engine"
    if name not in _EITHER:
        return None
    return "engine" if _ENGINES.search(frame.file) else ""


def _name(frame: Frame) -> str:
    return frame.function.rpartition(".")[2].strip("_")
