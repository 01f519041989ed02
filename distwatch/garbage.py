"""Python's search for garbage in cycles, which takes long where there are millions of objects and no cycle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """For what makes very many objects that stay: looking for cycles among them takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def stays(value: object) -> None:
    """Of very many objects that are needed to the end: no search looks at them, and nobody takes them apart then.

    That would take a third as long as making them.
    """
    circle: list[object] = [value]
    circle.append(circle)
    gc.freeze()
