"""The former format of snapshots, so that old journals remain readable."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.state import group_events as gr
from distwatch.state import process_events as ev
from distwatch.state.event import Event
from distwatch.state.snapshot import Snapshot


class OldSnapshot(Event, frozen=True, kw_only=True, tag="snapshot"):
    """One field for each kind of event; no longer written, and turned into a `Snapshot` when read."""

    started: ev.ProcessStarted
    worker: ev.WorkerPlaced | None = None
    confirmed: ev.IdentityConfirmed | None = None
    integrations: tuple[ev.IntegrationChanged, ...] = ()
    groups: tuple[gr.GroupCreated, ...] = ()
    group_calls: tuple[gr.GroupCalled, ...] = ()
    planned: ev.InitPlanned | None = None
    raised: tuple[ev.FindingRaised, ...] = ()
    loads: tuple[ev.LoadPlanned, ...] = ()
    placed: tuple[ev.ModelPlaced, ...] = ()
    meshes: tuple[gr.MeshMade, ...] = ()
    layouts: tuple[gr.LayoutHeld, ...] = ()
    skipped: tuple[gr.GradientSkipped, ...] = ()
    extra_groups: tuple[gr.ExtraGroupJoined, ...] = msgspec.field(default=(), name="side_worlds")
    initialized: bool = False
    steps: tuple[tuple[int, ev.StepStarted], ...] = ()
    sites: tuple[ev.SiteSeen, ...] = ()
    dropped: int = 0

    def from_wire(self) -> Event:
        untimed = ((0, event) for event in events_of(self) if event is not None)
        # The step of a load comes before the other events of the load.
        return Snapshot(kept=(*self.steps, *untimed), dropped=self.dropped)


def events_of(old: OldSnapshot) -> Iterable[Event | None]:
    """The events of its fields, without the steps, in an order that gives the same state."""
    yield old.started
    yield old.worker
    if old.initialized:
        yield old.planned
        yield old.confirmed
    else:
        yield old.confirmed
        yield old.planned or gr.GroupDestroyed(pg_name="")
    for several in (
        old.integrations,
        old.groups,
        old.group_calls,
        old.raised,
        old.meshes,
        old.layouts,
        old.skipped,
        old.extra_groups,
        old.loads,
        old.placed,
        old.sites,
    ):
        yield from several
