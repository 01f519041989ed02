"""One machine of a run, and what its observer has said of it."""

from __future__ import annotations

import msgspec

from distwatch.state import events as ev
from distwatch.state.ray_tables import RayTables

MOST_CROWDED = 4.0
Stamp = tuple[int, str, int]
"""(time_ns, stream, seq): a total order of sightings."""


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One observer's connection to another host's observer, as it reports it."""

    linked: bool
    since_ns: int
    """By the clock of the reporting host."""
    why: str = ""
    ended: bool = False
    goes_to: str = ""


class Host(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One machine of the run."""

    host: str
    now_ns: int = 0
    """The newest time of any event of this host: the clock of diagnosis."""
    hearing: ev.Hearing | None = None
    """None: its processes are looked at by this observer, or its observer was lost, or this is a recording."""
    wall_offset_ns: int = 0
    sample: ev.HostSampled | None = None
    devices: ev.DevicesSampled | None = None
    ports: ev.PortsSampled | None = None
    shared_memory: ev.SharedMemorySampled | None = None
    """Only while little of it was free."""
    communicators: ev.CommunicatorsSeen | None = None
    """The newest answer of NCCL's RAS service to this host's observer."""
    observers: dict[str, ev.ObserverStarted] = {}
    links: dict[str, Link] = {}
    """Its observer's links, by the other host's name."""
    endpoints: dict[str, ev.EndpointProbed] = {}
    """The newest look at each endpoint of the run's jobs, by `host:port`."""
    locks: dict[str, ev.LockLooked] = {}
    """The newest look at each lock file that a process waits for, by path."""
    held_locks: dict[str, ev.LockLooked] = {}
    """Of those, the newest look that found a holder: once that one has ended, there is none."""
    freed_locks: dict[str, int] = {}
    """When a look first found no holder any more (ns of this host)."""
    port_errors: dict[tuple[str, str, bool], tuple[Stamp, ev.PortErrorSeen]] = {}
    """The first error of each network port, by port and by who says it; a bounded number."""
    answered_ns: dict[str, int] = {}
    """When a store last answered, by endpoint."""
    ray: RayTables = msgspec.field(default_factory=RayTables)
    """The tables of the run's Ray cluster, as its observer read them."""
    marked: ev.NodeMarked | None = None
    """Somebody should look at this host before a job gets it."""
    notified: dict[tuple[str, int], ev.IncidentNotified] = {}
    """What its observer has told people, by phase and incident; a bounded number."""
    not_observed: dict[str, str] = {}
    stamps: dict[str, Stamp] = {}

    @property
    def crowding(self) -> float:
        """How many threads share a core: each one gets its turn as much later."""
        sample = self.sample
        if sample is None or not sample.cpus or sample.load is None:
            return 1.0
        return min(max(1.0, sample.load / sample.cpus), MOST_CROWDED)

    @property
    def values_ns(self) -> int:
        """Until when its processes' pulses and samples are known, by its clock: records overtake them."""
        return self.now_ns if self.hearing is None else min(self.now_ns, self.hearing.upto_ns)
