"""The frame of a stack that a person wants to see."""

from __future__ import annotations

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.state.events import Frame
from distwatch.state.model import Process

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
_RAY_SERVES, _RAY_TRAINS = "/ray/_private/worker.py", "TrainingThread("
"""Where the main thread of Ray's worker waits for tasks, and how Ray Train 2 names its thread in it."""


def is_library(file: str) -> bool:
    """Whether a source file is a library's, Python's or ours."""
    return any(part in file for part in _LIBRARIES)


def work_frames(process: Process) -> tuple[Frame, ...]:
    """What a person wants to see of it: the main thread, or Ray Train's thread for the user's function.

    What else is known of a process (whether it sleeps, since when) is of the main thread.
    """
    main = process.main_frames
    if not main or process.outside.stack is None or not main[-1].file.endswith(_RAY_SERVES):
        return main
    threads = process.outside.stack.threads
    return next((t.frames for t in threads if t.name.startswith(_RAY_TRAINS)), main)


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
