"""Events about the links between the observers of a run."""

from __future__ import annotations

import msgspec

from distwatch.state.bounds import Finite
from distwatch.state.event import Event


class LinkChanged(Event, frozen=True, kw_only=True):
    """An observer has reached another host's observer, or has lost the connection."""

    host: str
    """The host of the reporting observer."""
    peer: str
    """The other host's name; for the root, the address where it is reached."""
    linked: bool
    why: str = ""
    silent_s: Finite = 0.0
    """Seconds since the last message from it."""
    ended: bool = False
    """It ended in an orderly way and sends nothing more."""
    goes_to: str = ""
    """Where it was sent, to the root of its rack: that one says from now on whether it is seen."""


class Hearing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How far a host's observer has told of its processes, where that comes over a link."""

    known_ns: int
    """Until when, by the clock of the observer that listens; what it was told may have been under way for long."""
    upto_ns: int
    """Until when, by the host's own clock."""


class HostHeard(Event, frozen=True, kw_only=True):
    """The newest values of a host's processes were taken in. Never journaled: it is of no interest afterwards."""

    is_routine = True

    host: str
    hearing: Hearing | None = None
    """None: its processes are looked at by the observer that says so, or its observer was lost."""
