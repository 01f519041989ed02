"""A limit that an exception ran into, with what this process can see of it."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

from distwatch.state.events import LimitReached
from distwatch.state.limits import limit_in

_RESOURCES = {
    "open files": resource.RLIMIT_NOFILE,
    "memory": resource.RLIMIT_AS,
    "processes and threads": resource.RLIMIT_NPROC,
    "file size": resource.RLIMIT_FSIZE,
}
_PAGE = resource.getpagesize()


def limits_of(type_name: str, message: str, error: BaseException) -> Iterator[LimitReached]:
    """The limit that the exception is about, if it is about one."""
    what = limit_in(f"{type_name.rpartition('.')[2]}: {message}")
    if not what:
        return
    limit = _limit(what)
    filename = vars(OSError)["filename"].__get__(error) if isinstance(error, OSError) else None
    yield LimitReached(
        what=what,
        # At that limit no further file can be opened to count them.
        used=limit if what == "open files" else _used(what),
        limit=limit,
        path=filename[:500] if type(filename) is str else "",
    )


def _limit(what: str) -> int | None:
    chosen = _RESOURCES.get(what)
    limit = resource.getrlimit(chosen)[0] if chosen is not None else resource.RLIM_INFINITY
    return None if limit == resource.RLIM_INFINITY else limit


def _used(what: str) -> int | None:
    if what != "memory":
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 100).split()[0]) * _PAGE
        finally:
            os.close(descriptor)
    return None
