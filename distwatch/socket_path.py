"""Paths of Unix sockets, however deep the folder of the runs is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_LIMIT = 107
"""The longest path, in bytes, that the system takes for a socket (sun_path in unix(7))."""


@contextlib.contextmanager
def within_limit(path: str) -> Iterator[str]:
    """A path to bind or connect that socket by; a longer one goes by its folder's descriptor.

    Raises:
        OSError: there is no such folder, or it is a link.
    """
    if len(os.fsencode(path)) <= _LIMIT:
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
