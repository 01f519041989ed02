"""One table of the events that a late reader of the journal needs.

Each event class declares which of its events, and how many (`state/retention`).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import TypeVar

import msgspec

from distwatch.state.events import Event, Snapshot, decode_event, encode_event

E = TypeVar("E", bound=Event)
_Kept = tuple[int, int, bytes]
"""Its place among all events, its time (ns), and the encoded event."""
_OVERHEAD = 20
"""The most bytes that an event adds to a snapshot besides its own."""


class Retained:
    """Safe from any thread and from signal handlers: tables are changed and copied atomically.

    Events are kept encoded, so that a snapshot is fast: a record of the job waits for it.
    """

    def __init__(self) -> None:
        self._kept: dict[type[Event], dict[Hashable, _Kept]] = {}
        self._places = itertools.count()

    def keep(self, time_ns: int, event: Event, payload: bytes) -> None:
        """Keeps an event, and drops what it closes."""
        for kind, closed in event.closes():
            if closed is None:
                self._kept.get(kind, {}).clear()
            else:
                self.drop(kind, closed)
        rule = event.retain
        key = rule.key(event)
        if key is None:
            return
        table = self._kept.setdefault(type(event), {})
        before = table.get(key) if rule.most > 1 else None
        if before is None:
            rule.put(table, key, (next(self._places), time_ns, payload))
        elif before[2] != payload:
            # The order is kept, so that a late reader drops the same events as others.
            rule.put(table, key, (before[0], time_ns, payload))

    def drop(self, kind: type[Event], key: Hashable) -> bool:
        """Drops the event with that key; False where there was none, e.g. for the second of two callers."""
        return self._kept.get(kind, {}).pop(key, None) is not None

    def get(self, kind: type[E], key: Hashable = ()) -> E | None:
        """The event of a class with that key; the only event of a class without keys."""
        kept = self._kept.get(kind, {}).get(key)
        event = decode_event(kept[2]) if kept is not None else None
        return event if isinstance(event, kind) else None

    def all(self, kind: type[E]) -> list[E]:
        """All events of a class, in order."""
        events = (
            decode_event(payload) for _, _, payload in list(self._kept.get(kind, {}).values())
        )
        return [event for event in events if isinstance(event, kind)]

    def newest(self, kind: type[E]) -> E | None:
        """The event of a class whose key came last."""
        kept = list(self._kept.get(kind, {}).values())
        event = decode_event(kept[-1][2]) if kept else None
        return event if isinstance(event, kind) else None

    def has(self, event: Event) -> bool:
        """Whether exactly this event is kept."""
        kept = self._kept.get(type(event), {}).get(event.retain.key(event))
        return kept is not None and kept[2] == encode_event(event)

    def snapshot(self, dropped: int, limit: int) -> Snapshot:
        """All kept events, as one event of at most `limit` bytes; the oldest are left out first."""
        tables = {kind: list(table.values()) for kind, table in list(self._kept.items())}
        full = {kind for kind, kept in tables.items() if len(kept) >= kind.retain.most > 1}
        while sum(map(_size, tables.values())) > limit:
            largest = max(tables, key=lambda kind: _size(tables[kind]))
            full.add(largest)
            del tables[largest][: 1 + len(tables[largest]) // 4]
        kept = sorted(itertools.chain.from_iterable(tables.values()))
        return Snapshot(
            packed=tuple((time_ns, msgspec.Raw(payload)) for _, time_ns, payload in kept),
            incomplete=tuple(sorted(str(kind.__struct_config__.tag) for kind in full)),
            dropped=dropped,
        )


def _size(kept: list[_Kept]) -> int:
    return sum(len(payload) + _OVERHEAD for _, _, payload in kept)
