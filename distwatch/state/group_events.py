"""What a process tells about its groups and the layouts that they form: written by the agent in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Literal, TypeVar

import msgspec

from distwatch.state.bounds import Bounded, Finite
from distwatch.state.event import Event
from distwatch.state.process_events import Site
from distwatch.state.rank_spans import Spans, pack_ranks, spend, unpack_ranks
from distwatch.state.retention import Retention, last, latest

_Listing = TypeVar("_Listing", bound="MemberSpans")


class MemberSpans(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Part of what lists `members`: written as spans where those are shorter, read as the list."""

    spans: Spans = ()
    """Only on the wire: `members`, packed."""

    def to_wire(self: _Listing) -> _Listing:
        """As an event's: with spans for members."""
        members: tuple[int, ...] | None = getattr(self, "members", None)
        spans = pack_ranks(members) if members else ()
        if not spans:
            return self
        packed = msgspec.structs.replace(self, members=())
        msgspec.structs.force_setattr(packed, "spans", spans)
        return packed

    def __post_init__(self) -> None:
        if self.spans:
            members = unpack_ranks(self.spans)
            spend(len(members))
            msgspec.structs.force_setattr(self, "members", members)
            msgspec.structs.force_setattr(self, "spans", ())


class MeshMade(MemberSpans, Event, frozen=True, kw_only=True):
    """A device mesh: axes from the outermost in, and its ranks in row-major order."""

    retain = last(64)

    device: str
    axes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    site: Site | None = None


class HeldGroup(MemberSpans, frozen=True, kw_only=True, omit_defaults=True):
    """A process group as a framework holds it."""

    role: str
    """The framework's own name for it."""
    pg_name: str = ""
    axis: str = ""
    """tp, pp, cp, ep, dp, etp, edp, or a name of the framework's; empty: along several axes."""
    members: tuple[int, ...] = ()
    """Global ranks in the order of the axis; left out where there is none."""


class LayoutHeld(Event, frozen=True, kw_only=True):
    """A framework's parallel state, as this process holds it from now on."""

    retain = latest("framework", most=16)

    framework: str
    number: int = 1
    """Which initialization of this framework in this process it is, from 1; 0: it was not seen."""
    label: str = ""
    """What the call asked for, as its step says it."""
    sizes: dict[str, int] = {}
    """By axis, as the groups have them."""
    order: tuple[str, ...] = ()
    """Axes from the one whose ranks lie closest together, where the call said it."""
    groups: tuple[HeldGroup, ...] = ()
    site: Site | None = None
    stack: tuple[str, ...] = ()
    """The user's frames of the call that built it, the innermost last."""

    def to_wire(self) -> Event:
        groups = tuple(group.to_wire() for group in self.groups)
        return msgspec.structs.replace(self, groups=groups)


class LayoutReleased(Event, frozen=True, kw_only=True):
    """A framework's parallel state was taken down."""

    framework: str

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        return ((LayoutHeld, self.framework),)


class GradientSkipped(Event, frozen=True, kw_only=True):
    """Backward steps of this rank's pipeline stage were left out: its output needs no gradient.

    Written at the first one, then at every tenfold, and when one was not left out after that.
    """

    retain = latest("framework", most=16)

    framework: str
    skipped: int
    of: int
    """Backward steps so far, those included."""
    site: Site | None = None


class NonMemberCalled(Event, frozen=True, kw_only=True):
    """A collective was called on a group that this rank is not in: torch does nothing then."""

    retain = last(64)

    op: str
    site: Site | None = None


class SideWorldJoined(Bounded, Event, frozen=True, kw_only=True):
    """This process goes to meet others beside its default group: for weight sync, or in a bare store.

    Said again, under the same number, when more becomes known of it.
    """

    retain = latest("number", most=16)

    number: int
    """The 1-based index of the meeting in this process."""
    step: int
    """The step in which it waits for the others now, or did last."""
    endpoint: str = ""
    """`host:port` of the store."""
    name: str = ""
    """The group's; empty while only a store is there."""
    group_rank: int | None = None
    """Its rank there, which is not its global one."""
    size: int | None = None
    at_endpoint: int = 1
    """The 1-based index of the meeting of this process at that endpoint."""
    of_name: int = 0
    """The 1-based index of the meeting of that name at that endpoint; 0 without a name."""
    via: Literal["rendezvous", "process group", "store"] = "rendezvous"
    site: Site | None = None


class GroupCreated(MemberSpans, Event, frozen=True, kw_only=True):
    """This process now holds a process group."""

    retain = latest("pg_name", most=4096)

    pg_name: str
    pg_desc: str = ""
    backend: str = ""
    members: tuple[int, ...] = ()
    timeout_s: Finite | None = None
    site: Site | None = None
    axis: str = ""
    """The axis of a device mesh or parallel layout that this group runs along."""
    world: str = ""
    """The store of a group that is a world of its own, whose members number themselves."""


class GroupCalled(MemberSpans, Event, frozen=True, kw_only=True):
    """`new_group` was called, by members and non-members alike: call number `number` of it."""

    retain = latest("number", most=4096)

    number: int
    members: tuple[int, ...] | None
    pg_desc: str = ""
    site: Site | None = None


class GroupDestroyed(Event, frozen=True, kw_only=True):
    # That the whole world ended has to be known as long as no newer one holds; of a single group
    # it is enough that it is not kept any more.
    retain = Retention(1, lambda event: None if event.pg_name else ())

    pg_name: str
    """Empty: all of them."""

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        if self.pg_name:
            return ((GroupCreated, self.pg_name),)
        return tuple((kind, None) for kind in (GroupCreated, GroupCalled, MeshMade, LayoutHeld))
