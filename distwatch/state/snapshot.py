"""What still holds, as a journal says it anew when its ring has overwritten older records."""

from __future__ import annotations

import msgspec

from distwatch.state.codec import decode_part, encode_event
from distwatch.state.event import Event, UnknownEvent


class Snapshot(Event, frozen=True, kw_only=True, tag="snapshot_taken"):
    """What a reader needs to go on when the ring has overwritten older records: the events again.

    Its tag is not `snapshot`: that is what older versions write (`old_snapshot`).
    """

    kept: tuple[tuple[int, Event], ...] = ()
    """In their order, each with its time (ns); 0: an older version that did not say it."""
    packed: tuple[tuple[int, msgspec.Raw], ...] = ()
    """Only on the wire: `kept`, each event as it is written by itself."""
    incomplete: tuple[str, ...] = ()
    """Kinds of which there may be more than are kept here: what is absent has not ended."""
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
