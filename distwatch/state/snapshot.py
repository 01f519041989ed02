"""Snapshots: a journal repeats what still holds when its ring overwrites older records."""

from __future__ import annotations

import msgspec

from distwatch.state.codec import decode_part, encode_event
from distwatch.state.event import Event, UnknownEvent


class Snapshot(Event, frozen=True, kw_only=True, tag="snapshot_taken"):
    """The events that a reader needs to continue when the ring has overwritten older records.

    Its tag is not `snapshot`, which older versions wrote (`old_snapshot`).
    """

    kept: tuple[tuple[int, Event], ...] = ()
    """In order, each with its time (ns); 0: an older version did not write the time."""
    packed: tuple[tuple[int, msgspec.Raw], ...] = ()
    """Only on the wire: `kept`, with each event encoded separately."""
    incomplete: tuple[str, ...] = ()
    """Kinds with possibly more events than are kept here: an absent one may not have ended."""
    dropped: int = 0

    def to_wire(self) -> Event:
        kept = tuple((time_ns, msgspec.Raw(encode_event(event))) for time_ns, event in self.kept)
        return msgspec.structs.replace(self, kept=(), packed=self.packed + kept)

    def from_wire(self) -> Event:
        read = ((time_ns, decode_part(raw)) for time_ns, raw in self.packed)
        kept = tuple((time_ns, event) for time_ns, event in read if _can_be_kept(event))
        msgspec.structs.force_setattr(self, "kept", kept)
        msgspec.structs.force_setattr(self, "packed", ())
        return self


def _can_be_kept(event: Event | None) -> bool:
    return event is not None and not isinstance(event, Snapshot | UnknownEvent)
