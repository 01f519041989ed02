"""Events about a process's groups and parallel layouts, written by the agent inside it."""

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
    """A part with a list of `members`, written as spans where those are shorter."""

    spans: Spans = ()
    """Only on the wire: `members`, packed."""

    def to_wire(self: _Listing) -> _Listing:
        """Like an event's `to_wire`: with spans instead of members."""
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
    """A device mesh: its axes, the outermost first, and its ranks in row-major order."""

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
    """tp, pp, cp, ep, dp, etp, edp, or the framework's own name; empty: along several axes."""
    members: tuple[int, ...] = ()
    """Global ranks in the order of the axis; empty where `axis` is."""


class LayoutHeld(Event, frozen=True, kw_only=True):
    """A framework's parallel state, as this process holds it from now on."""

    retain = latest("framework", most=16)

    framework: str
    number: int = 1
    """The 1-based index of this initialization of the framework in this process; 0: not seen."""
    label: str = ""
    """The requested layout: the label of the call's step."""
    sizes: dict[str, int] = {}
    """By axis: the sizes of the actual groups."""
    order: tuple[str, ...] = ()
    """Axes from the one whose ranks are closest together; empty where the call does not say."""
    groups: tuple[HeldGroup, ...] = ()
    site: Site | None = None
    stack: tuple[str, ...] = ()
    """The user's frames at the call that built it, the innermost last."""

    def to_wire(self) -> Event:
        groups = tuple(group.to_wire() for group in self.groups)
        return msgspec.structs.replace(self, groups=groups)


class LayoutReleased(Event, frozen=True, kw_only=True):
    """A framework's parallel state was destroyed."""

    framework: str

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        return ((LayoutHeld, self.framework),)


class GradientSkipped(Event, frozen=True, kw_only=True):
    """Backward steps of this rank's pipeline stage were skipped: its output needs no gradient.

    Written at the 1st, 10th, 100th, … skipped step, and at the first step after them that ran.
    """

    retain = latest("framework", most=16)

    framework: str
    skipped: int
    of: int
    """All backward steps so far, including the skipped ones."""
    site: Site | None = None


class NonMemberCalled(Event, frozen=True, kw_only=True):
    """A collective was called on a group that does not contain this rank; torch ignores the call."""

    retain = last(64)

    op: str
    site: Site | None = None


class ExtraGroupJoined(Bounded, Event, frozen=True, kw_only=True, tag="side_world_joined"):
    """This process joins a world besides its default group: for weight sync, or through a bare store.

    Written again, with the same number, when more is known about it. Old journals have its former name.
    """

    retain = latest("number", most=16)

    number: int
    """The 1-based index of the world in this process."""
    step: int
    """The step in which it waits for the other members, or last did."""
    endpoint: str = ""
    """`host:port` of the store."""
    name: str = ""
    """The group's name; empty while there is only a store."""
    group_rank: int | None = None
    """Its rank in that world, which is not its global rank."""
    size: int | None = None
    at_endpoint: int = 1
    """The 1-based index of the world among this process's worlds at that endpoint."""
    of_name: int = 0
    """The 1-based index among its worlds of that name at that endpoint; 0 without a name."""
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
    """The store of a separate world, whose members have their own numbers; else empty."""


class GroupCalled(MemberSpans, Event, frozen=True, kw_only=True):
    """`new_group` was called for the `number`-th time, as members and non-members all must."""

    retain = latest("number", most=4096)

    number: int
    members: tuple[int, ...] | None
    pg_desc: str = ""
    site: Site | None = None


class LocalGroupCalled(MemberSpans, Event, frozen=True, kw_only=True):
    """`new_group` was called with `use_local_synchronization=True`, as only members do.

    torch derives the group's name from its members and from how many groups this process holds.
    """

    retain = latest("number", most=64)

    number: int
    """The 1-based index among such calls of this process."""
    members: tuple[int, ...] | None
    held: int
    """How many groups the process held at that time, the default one included."""
    pg_desc: str = ""
    site: Site | None = None


class GroupDestroyed(Event, frozen=True, kw_only=True):
    # The end of the whole world must be known until a new one exists; for a single group it is
    # enough that the group is no longer kept.
    retain = Retention(1, lambda event: None if event.pg_name else ())

    pg_name: str
    """Empty: all of them."""

    def closes(self) -> Iterable[tuple[type[Event], Hashable | None]]:
        if self.pg_name:
            return ((GroupCreated, self.pg_name),)
        return tuple(
            (kind, None)
            for kind in (GroupCreated, GroupCalled, LocalGroupCalled, MeshMade, LayoutHeld)
        )
