"""What a process's own flight recorder left in a file, as read by an observer."""

from __future__ import annotations

import msgspec

from distwatch.state.event import Event
from distwatch.state.group_events import GroupCreated
from distwatch.state.observer_events import Operation, Pulse
from distwatch.state.process_events import CollectivesDumped, Site


class RecorderFileRead(Event, frozen=True, kw_only=True):
    """A dump that torch's watchdog wrote by itself, or because somebody asked it to by its pipe.

    Its parts are what an agent inside the process would have said.
    """

    process: str
    path: str
    taken_ns: int
    """When it was written, by the host's monotonic clock."""
    groups: tuple[GroupCreated, ...] = ()
    dumped: CollectivesDumped
    pulse: Pulse = Pulse()
    operations: tuple[Operation, ...] = ()
    sites: dict[int, Site] = {}

    def to_wire(self) -> Event:
        groups = tuple(group.to_wire() for group in self.groups)
        return msgspec.structs.replace(self, groups=groups, dumped=self.dumped.to_wire())

    def from_wire(self) -> Event:
        self.dumped.from_wire()
        return self
