"""Events about the places where ranks and nodes meet, as an observer sees them."""

from __future__ import annotations

from typing import Literal

from distwatch.state.bounds import Finite
from distwatch.state.event import Event


class EndpointProbed(Event, frozen=True, kw_only=True):
    """What answers at a job's MASTER_ADDR:MASTER_PORT, as seen from `host`."""

    host: str
    endpoint: str
    outcome: Literal["store", "refused", "silent", "no_answer", "unresolved", "foreign", "error"]
    """A TCPStore answered · nobody listens · accepts but does not answer · packets are dropped ·
    the name is unknown · something other than a TCPStore answered · any other failure."""
    detail: str = ""
    addresses: tuple[str, ...] = ()
    owner_pid: int | None = None
    """The listener's pid, where it is on this host and visible to this user."""
    owner_command: tuple[str, ...] = ()
    owner_process: str | None = None
    """The key of that process."""
    clients: int | None = None
    """Number of torch clients that have joined the store."""
    arrived: tuple[int, ...] = ()
    """Ranks that have published their address in the store."""


class RendezvousLooked(Event, frozen=True, kw_only=True):
    """Who has come to the rendezvous of a launcher that has not started a worker yet, as seen from `host`."""

    is_routine = True

    process: str
    """The launcher's."""
    host: str
    endpoint: str
    backend: str
    """torchrun's name: c10d, static, …"""
    nodes_needed: int
    nodes_joined: int | None = None
    """None: that was not observed."""
    nodes: tuple[str, ...] = ()
    """Those that have joined, where they are named: `node7 (pid 4711)`."""
    waits_since_ns: int = 0
    """Since when no other node has joined, as far as looks show."""
    limit_s: Finite | None = None
    """How long the launcher lets an initialization take, by its DISTWATCH_DEADLINES; None without distwatch."""
    detail: str = ""
    """Why something was not observed."""
