"""The base of all events. An event is a frozen fact in the past tense, identified by its `kind`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
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

    The class also says how its events are treated. By default an event is written unchanged, appears
    in the timeline, and is not kept for later readers.
    """

    retain: ClassVar[Retention] = NOT_KEPT
    """Which of these events a reader needs that has lost the earlier records."""
    is_routine: ClassVar[Any] = False
    """Whether it only updates clocks and numbers; no timeline shows it. May be a property."""

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        """What this event ends, as class and key; key None: all events of that class."""
        return ()

    def to_wire(self) -> Event:
        """The event in its written form, which may be shorter."""
        return self

    def from_wire(self) -> Event:
        """The event, from its written form."""
        return self


class UnknownEvent(Event, frozen=True, kw_only=True, tag=False):
    """An event of a newer distwatch: kept, shown by its kind, and never interpreted."""

    kind: str
    payload: bytes


def register(
    table: dict[type[Event], Any], *kinds: type[Event]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that enters its function into a table, as the handler of these classes."""

    def enter(handler: Callable[..., None]) -> Callable[..., None]:
        table.update(dict.fromkeys(kinds, handler))
        return handler

    return enter
