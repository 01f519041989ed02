"""Who calls a collective, where that is not the main thread's own code."""

from __future__ import annotations

import re
import threading
from types import FrameType

_NUMBER = re.compile(r"\d+")
_WALKED = 200


def caller_of(frame: FrameType | None, thread: int) -> str:
    """`thread saver`, `the finalizer Metric.__del__`; '' for the main thread's own code.

    Args:
        frame: of the call.
        thread: the thread's identifier; 0 for the main thread.
    """
    for _ in range(_WALKED):
        if frame is None:
            break
        code = frame.f_code
        if code.co_name == "__del__":
            return f"the finalizer {getattr(code, 'co_qualname', code.co_name)}"
        if code.co_filename.endswith("/weakref.py"):
            return "a finalizer of weakref"
        frame = frame.f_back
    name = _name_of(thread) if thread else ""
    return f"thread {name}" if name else ""


def _name_of(thread: int) -> str:
    """Without its number, since a program may start a new one for each call; '' for one of native code.

    The main thread waits for those: autograd calls from its own threads what the main thread's backward needs.
    """
    # Not threading.current_thread(): it would add an entry for a thread of native code.
    known = threading._active.get(thread)  # type: ignore[attr-defined]
    if known is None or isinstance(known, threading._DummyThread):
        return ""
    return _NUMBER.sub("N", str(known.name))[:60]
