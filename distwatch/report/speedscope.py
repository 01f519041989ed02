"""Stacks in the file format of https://www.speedscope.app: one profile for each thread; each rank weighs 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distwatch.state.events import Frame

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def speedscope(
    title: str, by_thread: Mapping[str, Mapping[int, tuple[Frame, ...]]]
) -> dict[str, Any]:
    """The document as plain data.

    Args:
        by_thread: by a thread's name and global rank, its frames, outermost first.
    """
    frames: dict[Frame, int] = {}
    profiles = []
    for name, stacks in by_thread.items():
        weights: dict[tuple[int, ...], int] = {}
        for stack in stacks.values():
            sample = tuple(frames.setdefault(frame, len(frames)) for frame in stack)
            weights[sample] = weights.get(sample, 0) + 1
        profiles.append(
            {
                "type": "sampled",
                "name": f"{name}, {len(stacks)} ranks",
                "unit": "none",
                "startValue": 0,
                "endValue": len(stacks),
                "samples": [list(sample) for sample in weights],
                "weights": list(weights.values()),
            }
        )
    return {
        "$schema": SCHEMA,
        "name": title,
        "exporter": "distwatch",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame) for frame in frames]},
        "profiles": profiles,
    }


def _frame(frame: Frame) -> dict[str, Any]:
    known = {"name": frame.function, "file": frame.file, "line": frame.line}
    return {name: value for name, value in known.items() if value or name == "name"}
