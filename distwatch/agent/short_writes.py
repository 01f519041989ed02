"""Why torch.save could not write a whole file: its error does not say it, but the file system may show it."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePath

from distwatch.agent.exception_text import chain_of, field_of
from distwatch.agent.guard import run_within
from distwatch.state.events import LimitReached

_WAITED_S = 0.1
_CHAIN_KEPT = 8
_NOTHING = 1 << 20
"""Less than this is not taken in by a writer that fails: it writes megabytes at once."""
_SAVE = ("/torch/serialization.py", "save", "f")
"""torch.save's file, its function and the argument that names what is written."""


def saved_path(error: BaseException) -> str:
    """The file that the failed torch.save was to write; '' where it was given no path."""
    chain = islice(chain_of(error, field_of(error, "__traceback__")), _CHAIN_KEPT)
    for frame in (one for _, frames, _ in chain for one in frames):
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

    if path:
        run_within(_WAITED_S, "statvfs", ask)
    return next(iter(found), None)


def _limits_of_file(path: str) -> Iterator[LimitReached]:
    place = os.statvfs(os.path.dirname(path))
    size, free = place.f_blocks * place.f_frsize, place.f_bavail * place.f_frsize
    if free < _NOTHING:
        yield LimitReached(what="disk", used=size - free, limit=size, path=path[:500])
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and os.stat(path).st_size >= most - _NOTHING:
        yield LimitReached(what="file size", limit=most, path=path[:500])
