"""Values of a plan file as numbers; an error names the place of a wrong one."""

from __future__ import annotations

from typing import Any

import msgspec

from distwatch.preflight.plan import Plan
from distwatch.preflight.yaml_text import Document, Path
from distwatch.visible_text import shorten

SIZE_LIMIT = 100_000_000
"""No number of ranks, heads or seconds is above this."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One layout of a file.

    Attributes:
        name: its place in the file, by dotted path.
        undecided: sizes that the file alone does not give; the plan leaves them out.
        notes: what else the file leaves open, and where facts came from.
        accelerators: numbers of the cluster's accelerators that it is placed on; () where nothing says.
        capacity: accelerators of the whole cluster, where that is known.
        converted: by axis, the sizes for which a converter of the same component writes its checkpoints.
    """

    name: str
    plan: Plan
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accelerators: tuple[int, ...] = ()
    capacity: int | None = None
    converted: dict[str, int] = {}


def whole(document: Document, place: Path, value: Any) -> int:
    """A positive whole number.

    Raises:
        PlanInvalid: it is not one; the message names its place in the file.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= SIZE_LIMIT:
        quoted = isinstance(value, str) and value.isdigit()
        hint = "Write it without quotes." if quoted else "Write a positive whole number."
        raise document.invalid(place, f"{place[-1]} is {_told(value)}", hint)
    return value


def number(document: Document, place: Path, value: Any) -> float:
    """A positive number.

    Raises:
        PlanInvalid: it is not one; the message names its place in the file.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= SIZE_LIMIT:
        what = f"{place[-1]} is {_told(value)}"
        raise document.invalid(place, what, "Write a positive number.")
    return float(value)


def _told(value: Any) -> str:
    return shorten(repr(value), 80)
