"""A limit that an exception ran into, with what this process can see of it."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

from distwatch.agent.short_writes import limit_of_file, saved_path
from distwatch.state.events import LimitReached
from distwatch.state.limits import first_limit, is_short_write

_RESOURCES = {
    "open files": resource.RLIMIT_NOFILE,
    "memory": resource.RLIMIT_AS,
    "processes and threads": resource.RLIMIT_NPROC,
    "file size": resource.RLIMIT_FSIZE,
}
SHM = "/dev/shm"
_PAGE = resource.getpagesize()


def limits_of(
    error: BaseException, said: str, cause: str = "", *, ended: bool = True
) -> Iterator[LimitReached]:
    """The limit that the exception is about, if it is about one.

    Args:
        said, cause: it, and what it began with, each as `TypeName: message`.
        ended: it has ended a thread, so that its frames may be looked at.
    """
    what = first_limit(said, cause)
    if not what:
        short = ended and (is_short_write(said) or is_short_write(cause))
        if short and (reached := limit_of_file(saved_path(error))):
            yield reached
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
    if what == SHM:
        return _shared_memory()[0]
    chosen = _RESOURCES.get(what)
    limit = resource.getrlimit(chosen)[0] if chosen is not None else resource.RLIM_INFINITY
    return None if limit == resource.RLIM_INFINITY else limit


def _shared_memory() -> tuple[int | None, int | None]:
    """Its size and what is free. It lies in memory, so that asking never blocks."""
    with contextlib.suppress(OSError):
        size = os.statvfs(SHM)
        return size.f_blocks * size.f_frsize, size.f_bavail * size.f_frsize
    return None, None


def _used(what: str) -> int | None:
    if what == SHM:
        total, free = _shared_memory()
        return total - free if total is not None and free is not None else None
    if what != "memory":
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 100).split()[0]) * _PAGE
        finally:
            os.close(descriptor)
    return None
