"""Values of a plan file as numbers, with the place of those that are none."""

from __future__ import annotations

from typing import Any

import msgspec

from distwatch.errors import PlanInvalid
from distwatch.preflight.plan import Plan
from distwatch.preflight.yaml_text import Document, Path

SIZE_LIMIT = 100_000_000
"""Above this nothing is a number of ranks, of heads or of seconds."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One layout of a file.

    Attributes:
        name: its place in the file, by dotted path.
        undecided: sizes that the file alone does not tell; in the plan they are not said.
        notes: what else the file does not decide, and where facts came from.
        accelerators: of the cluster, those that it is placed on by number; () where nothing says.
        capacity: accelerators of the whole cluster, where that is known.
    """

    name: str
    plan: Plan
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accelerators: tuple[int, ...] = ()
    capacity: int | None = None


def whole(document: Document, place: Path, value: Any) -> int:
    """A positive whole number.

    Raises:
        PlanInvalid: it is not one; the message names its place in the file.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= SIZE_LIMIT:
        quoted = isinstance(value, str) and value.isdigit()
        hint = "Write it without quotes." if quoted else "Write a positive whole number."
        raise PlanInvalid(f"{document.where(place)}: {place[-1]} is {_told(value)}", advice=hint)
    return value


def number(document: Document, place: Path, value: Any) -> float:
    """A positive number.

    Raises:
        PlanInvalid: it is not one; the message names its place in the file.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value <= SIZE_LIMIT
    ):
        raise PlanInvalid(
            f"{document.where(place)}: {place[-1]} is {_told(value)}",
            advice="Write a positive number.",
        )
    return float(value)


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
