"""Why torch.save could not write a whole file: its error does not say it, but the file system may show it."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import PurePath
from types import TracebackType

from distwatch.agent.exception_text import field_of
from distwatch.state.events import LimitReached

_WAITED_S = 0.1
_CHAIN_KEPT = 8
_FRAMES_KEPT = 1000
_NOTHING = 1 << 20
"""Less than this is not taken in by a writer that fails: it writes megabytes at once."""
_SAVE = ("/torch/serialization.py", "save", "f")
"""torch.save's file, its function and the argument that names what is written."""


def saved_path(error: BaseException) -> str:
    """The file that the failed torch.save was to write; '' where it was given no path."""
    for frame in _frames(error):
        code = frame.tb_frame.f_code
        if code.co_name == _SAVE[1] and code.co_filename.endswith(_SAVE[0]):
            place = frame.tb_frame.f_locals.get(_SAVE[2])
            if type(place) is str or isinstance(place, PurePath):
                with contextlib.suppress(OSError):  # the working directory may be gone
                    return os.path.abspath(place)
    return ""


def limit_of_file(path: str) -> LimitReached | None:
    """The full disk, or the limit of files' size, that a file has come to; None for neither, and for no answer.

    A lost mount does not answer: it is asked in a thread that is left behind then.
    """
    found: list[LimitReached] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            found.extend(_limits_of_file(path))

    asking = threading.Thread(target=ask, name="distwatch statvfs", daemon=True)
    with contextlib.suppress(RuntimeError):  # the process may not start another thread
        if path:
            asking.start()
            asking.join(_WAITED_S)
    return next(iter(found), None)


def _limits_of_file(path: str) -> Iterator[LimitReached]:
    place = os.statvfs(os.path.dirname(path))
    size, free = place.f_blocks * place.f_frsize, place.f_bavail * place.f_frsize
    if free < _NOTHING:
        yield LimitReached(what="disk", used=size - free, limit=size, path=path[:500])
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and os.stat(path).st_size >= most - _NOTHING:
        yield LimitReached(what="file size", limit=most, path=path[:500])


def _frames(error: BaseException) -> Iterator[TracebackType]:
    """Of the exception and those that it was raised from."""
    one: BaseException | None = error
    for _ in range(_CHAIN_KEPT):
        if one is None:
            return
        traceback = field_of(one, "__traceback__")
        for _ in range(_FRAMES_KEPT):
            if traceback is None:
                break
            yield traceback
            traceback = traceback.tb_next
        cause = field_of(one, "__cause__")
        one = field_of(one, "__context__") if cause is None else cause
