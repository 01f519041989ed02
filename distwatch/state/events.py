"""Everything that can be written to a journal: frozen facts in the past tense, and their bytes.

An agent writes about its own process (`process_events`); an observer writes what it sees from outside
(`observer_events`, `ray_events`). Times are CLOCK_MONOTONIC nanoseconds of the host and travel in the
frame, not in the event. A kind that this version does not know decodes to `UnknownEvent` and survives
re-encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from distwatch.state.event import Event, kind_of
from distwatch.state.observer_events import (
    Connection,
    ConnectionsSeen,
    Device,
    DevicesSampled,
    DeviceUse,
    EndpointProbed,
    ErrorFileRead,
    ExitSeen,
    FindingsJudged,
    Frame,
    GroupProgress,
    HostSampled,
    LinkChanged,
    LockHolder,
    LockLooked,
    NotObserved,
    ObserverEnded,
    ObserverStarted,
    Operation,
    PeerProgress,
    ProcessSampled,
    ProcessSighted,
    Pulse,
    PulseRead,
    SourceLine,
    SourcesRead,
    StackTaken,
    ThreadStack,
    Ticked,
)
from distwatch.state.process_events import (
    GAVE_UP,
    CollectivesDumped,
    ExceptionUncaught,
    FindingRaised,
    GradientSkipped,
    GroupCalled,
    GroupCreated,
    GroupDestroyed,
    HeldGroup,
    HookFailed,
    IdentityConfirmed,
    InitPlanned,
    IntegrationChanged,
    LayoutHeld,
    LayoutReleased,
    LoadPlanned,
    MemberSpans,
    MeshMade,
    ModelPlaced,
    NonMemberCalled,
    ProcessEnding,
    ProcessStarted,
    SideWorldJoined,
    Site,
    SiteSeen,
    Snapshot,
    StepEnded,
    StepProgressed,
    StepStarted,
    WorkerPlaced,
)
from distwatch.state.rank_spans import pack_ranks
from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)
from distwatch.state.recorder_entries import Collective, pack_entries

__all__ = [
    "GAVE_UP",
    "AnyEvent",
    "Collective",
    "CollectivesDumped",
    "Connection",
    "ConnectionsSeen",
    "Device",
    "DeviceUse",
    "DevicesSampled",
    "EndpointProbed",
    "ErrorFileRead",
    "Event",
    "ExceptionUncaught",
    "ExitSeen",
    "FindingRaised",
    "FindingsJudged",
    "Frame",
    "GradientSkipped",
    "GroupCalled",
    "GroupCreated",
    "GroupDestroyed",
    "GroupProgress",
    "HeldGroup",
    "HookFailed",
    "HostSampled",
    "IdentityConfirmed",
    "InitPlanned",
    "IntegrationChanged",
    "LayoutHeld",
    "LayoutReleased",
    "LinkChanged",
    "LoadPlanned",
    "LockHolder",
    "LockLooked",
    "MemberSpans",
    "MeshMade",
    "ModelPlaced",
    "NonMemberCalled",
    "NotObserved",
    "ObserverEnded",
    "ObserverStarted",
    "Operation",
    "PeerProgress",
    "ProcessEnding",
    "ProcessSampled",
    "ProcessSighted",
    "ProcessStarted",
    "Pulse",
    "PulseRead",
    "RayActorSeen",
    "RayGroupSeen",
    "RayJobSeen",
    "RayLooked",
    "RayNodeSeen",
    "SideWorldJoined",
    "Site",
    "SiteSeen",
    "Snapshot",
    "SourceLine",
    "SourcesRead",
    "StackTaken",
    "StepEnded",
    "StepProgressed",
    "StepStarted",
    "ThreadStack",
    "Ticked",
    "UnknownEvent",
    "WorkerPlaced",
    "decode_event",
    "encode_event",
    "kind_of",
]


class UnknownEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a newer distwatch: kept, shown by its kind, and never interpreted."""

    kind: str
    payload: bytes


AnyEvent = (
    ProcessStarted
    | WorkerPlaced
    | InitPlanned
    | FindingRaised
    | MeshMade
    | LayoutHeld
    | LayoutReleased
    | GradientSkipped
    | NonMemberCalled
    | IdentityConfirmed
    | IntegrationChanged
    | StepStarted
    | StepProgressed
    | StepEnded
    | LoadPlanned
    | ModelPlaced
    | SideWorldJoined
    | GroupCreated
    | GroupCalled
    | GroupDestroyed
    | SiteSeen
    | CollectivesDumped
    | ExceptionUncaught
    | ProcessEnding
    | HookFailed
    | Snapshot
    | ObserverStarted
    | ObserverEnded
    | LinkChanged
    | Ticked
    | ProcessSighted
    | ProcessSampled
    | PulseRead
    | EndpointProbed
    | ExitSeen
    | StackTaken
    | ConnectionsSeen
    | SourcesRead
    | ErrorFileRead
    | LockLooked
    | HostSampled
    | DevicesSampled
    | NotObserved
    | RayActorSeen
    | RayNodeSeen
    | RayGroupSeen
    | RayJobSeen
    | RayLooked
    | FindingsJudged
)

_Listing = TypeVar("_Listing", MeshMade, GroupCreated, GroupCalled, HeldGroup)


def _packed(listing: _Listing) -> _Listing:
    spans = pack_ranks(listing.members) if listing.members else ()
    if not spans:
        return listing
    packed = msgspec.structs.replace(listing, members=())
    msgspec.structs.force_setattr(packed, "spans", spans)
    return packed


def _packed_layout(held: LayoutHeld) -> LayoutHeld:
    return msgspec.structs.replace(held, groups=tuple(map(_packed, held.groups)))


def _packed_snapshot(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(
        snapshot,
        groups=tuple(map(_packed, snapshot.groups)),
        group_calls=tuple(map(_packed, snapshot.group_calls)),
        meshes=tuple(map(_packed, snapshot.meshes)),
        layouts=tuple(map(_packed_layout, snapshot.layouts)),
    )


def _packed_dump(dumped: CollectivesDumped) -> CollectivesDumped:
    packed = pack_entries(dumped.entries)
    if packed is None:
        return dumped
    short = msgspec.structs.replace(dumped, entries=())
    msgspec.structs.force_setattr(short, "packed", packed)
    return short


_PACKERS: dict[type, Callable[[Any], AnyEvent]] = {
    MeshMade: _packed,
    GroupCreated: _packed,
    GroupCalled: _packed,
    LayoutHeld: _packed_layout,
    CollectivesDumped: _packed_dump,
    Snapshot: _packed_snapshot,
}

_T = TypeVar("_T")
_MEMO = 8192


@lru_cache(maxsize=_MEMO)
def _one(value: _T) -> _T:
    """The first of all equal values: ranks of one job tell the same things in the same words."""
    return value


def _share_frames(taken: StackTaken) -> StackTaken:
    for thread in taken.threads:
        msgspec.structs.force_setattr(thread, "frames", _one(thread.frames))
    return taken


_SHARERS: dict[type, Callable[[Any], AnyEvent]] = {
    IntegrationChanged: _one,
    StackTaken: _share_frames,
}
"""What is done to an event that was just decoded, so that equal parts are one object."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)
_KNOWN = frozenset(kind_of(t.__name__) for t in AnyEvent.__args__)


def encode_event(event: AnyEvent | UnknownEvent) -> bytes:
    """An event as msgpack."""
    if isinstance(event, UnknownEvent):
        return event.payload
    packer = _PACKERS.get(type(event))
    return _encoder.encode(packer(event) if packer else event)


def decode_event(payload: bytes) -> AnyEvent | UnknownEvent | None:
    """An event from msgpack; None where the bytes are no event. Never raises on garbage."""
    try:
        event = _decoder.decode(payload)
        share = _SHARERS.get(type(event))
        return share(event) if share else event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        return _unknown(payload)


def _unknown(payload: bytes) -> UnknownEvent | None:
    try:
        plain: Any = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, TypeError):
        return None
    kind = plain.get("kind") if isinstance(plain, dict) else None
    # A known kind that does not fit its type is damage or abuse, not a newer version.
    if not isinstance(kind, str) or kind in _KNOWN:
        return None
    return UnknownEvent(kind=kind, payload=payload)
