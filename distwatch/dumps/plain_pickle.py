"""Pickles of plain data: numbers, texts, lists, tuples, sets and dicts, and no code."""

from __future__ import annotations

import io
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from distwatch.errors import DistwatchError

LARGEST = 256 * 1024 * 1024
_TIMES = 96
"""Bytes of memory for a byte of a file: an empty set takes one byte there and 216 here, but no dump has
only these; torch's own need 20."""
_AT_LEAST = 96 << 20
_PAGE = resource.getpagesize()


class NotPlain(DistwatchError):
    """A pickle that is damaged, or that needs more than plain data."""


class _PlainUnpickler(pickle.Unpickler):
    """Finds no class and no function, so nothing can be called or built."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise NotPlain(
            f"it refers to {module_name[:60]}.{global_name[:60]}, which no recorder's dump needs: not read",
            advice="Do not load this file with pickle: whoever wrote it could run code on your machine.",
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise NotPlain(
            "it refers to objects outside itself, which no recorder's dump does: not read"
        )


@contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Within it, what a file of that many bytes makes may take memory in proportion to it.

    Nine bytes can ask the unpickler for a table of 2 GB, and a list that is referred to from a million
    places becomes a million lists when it is copied. The kernel refuses that, whatever the trick is.

    Raises:
        NotPlain: more was asked for.
    """
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _used() + _AT_LEAST + _TIMES * size
    if before != resource.RLIM_INFINITY:
        limit = min(limit, before)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    try:
        yield
    except MemoryError:
        raise NotPlain(
            f"it takes more than {(_AT_LEAST + _TIMES * size) >> 20} MiB of memory, which no recorder's dump "
            f"of {size} bytes does: not read"
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def _used() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * _PAGE


def load_plain(content: bytes) -> Any:
    """The data of a pickle.

    Raises:
        NotPlain: it is damaged, too large, or names a class or a function. Nothing has been called
            by then.
    """
    if len(content) > LARGEST:
        raise NotPlain(f"it is larger than {LARGEST >> 20} MiB")
    try:
        with bounded_memory(len(content)):
            return _PlainUnpickler(io.BytesIO(content)).load()
    except NotPlain:
        raise
    except Exception as error:
        # A damaged pickle fails in any of a dozen ways.
        raise NotPlain(
            f"it is not a complete pickle: {type(error).__name__}: {error}"[:200]
        ) from None
