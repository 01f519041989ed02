"""What every event is: a frozen fact in the past tense, told apart by its `kind`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, ClassVar

import msgspec

from distwatch.state.retention import NOT_KEPT, Retention


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
    """Base of all events. A subclass is known to the decoder once it is defined.

    What an event is beside its fields, its class says: by default, it is written as it stands, is
    part of the timeline, and is needed by nobody who comes later.
    """

    retain: ClassVar[Retention] = NOT_KEPT
    """Which of them a reader needs who has lost what came before."""
    is_routine: ClassVar[Any] = False
    """Whether it only moves clocks and numbers, which no timeline shows; may be a property."""

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        """What holds no longer since this happened: class and key; None: all of that class."""
        return ()

    def to_wire(self) -> Event:
        """The event as it is written, where that is shorter."""
        return self

    def from_wire(self) -> Event:
        """The event, made of one that was just read."""
        return self


class UnknownEvent(Event, frozen=True, kw_only=True, tag=False):
    """An event of a newer distwatch: kept, shown by its kind, and never interpreted."""

    kind: str
    payload: bytes
