"""What every event is: a frozen fact in the past tense, told apart by its `kind`."""

from __future__ import annotations

import msgspec


def kind_of(class_name: str) -> str:
    """`StepStarted` is of kind `step_started`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in class_name).lstrip("_")


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="kind",
    tag=kind_of,
):
    """Base of all events."""
