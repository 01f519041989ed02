"""Pickles of plain data: numbers, texts, lists, tuples, sets and dicts, and no code."""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from distwatch.errors import DistwatchError

LARGEST = 256 * 1024 * 1024


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


def load_plain(content: bytes) -> Any:
    """The data of a pickle.

    Raises:
        NotPlain: it is damaged, too large, or names a class or a function. Nothing has been called
            by then.
    """
    if len(content) > LARGEST:
        raise NotPlain(f"it is larger than {LARGEST >> 20} MiB")
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except NotPlain:
        raise
    except Exception as error:
        # A damaged pickle fails in any of a dozen ways.
        raise NotPlain(
            f"it is not a complete pickle: {type(error).__name__}: {error}"[:200]
        ) from None
