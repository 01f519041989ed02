"""The frame of a stack that a person wants to see."""

from __future__ import annotations

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.state.events import Frame

_LIBRARIES = (
    "/site-packages/",
    "/dist-packages/",
    "/lib/python3",
    "<frozen",
    # Our own files inside a job, by folder: a clone of the repository is called distwatch, too.
    "/distwatch/agent/",
    "/distwatch/hooks/",
    "/distwatch/integrations/",
)


def is_library(file: str) -> bool:
    """Whether a source file is a library's, Python's or ours."""
    return any(part in file for part in _LIBRARIES)


@cache_by_identity
def user_frame(frames: tuple[Frame, ...]) -> Frame | None:
    """The innermost frame of the user's own code; where there is none, the innermost of all."""
    for frame in reversed(frames):
        if not is_of_library(frame):
            return frame
    return frames[-1] if frames else None


def is_of_library(frame: Frame) -> bool:
    """Whether a frame is not of the user's own code."""
    return frame.native or is_library(frame.file)
