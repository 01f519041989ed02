"""The endpoints of ranks: two spellings of one endpoint, or two endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from distwatch.state.addresses import is_loopback
from distwatch.state.events import EndpointProbed
from distwatch.state.model import Process, RunState


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Host and port. `loopback_of`: the host that a loopback address stands for, else empty."""

    name: str = ""
    port: str = ""
    loopback_of: str = ""

    @property
    def known(self) -> bool:
        return bool(self.name)


def endpoint_of(process: Process) -> Endpoint:
    """The endpoint of a process by its plan, else by its environment."""
    planned = process.planned
    if planned is not None and planned.method == "alone":
        return Endpoint(name=f"alone {process.key}")
    endpoint = planned.endpoint if planned is not None else ""
    if planned is not None and planned.method == "file":
        return Endpoint(name=f"file {endpoint}")
    return read_endpoint(endpoint or process.identity.endpoint or "", process.host)


@lru_cache(maxsize=4096)
def read_endpoint(endpoint: str, host: str) -> Endpoint:
    """`host:port`, as a process on `host` understands it."""
    name, _, port = endpoint.rpartition(":")
    name = name.strip("[]").lower().rstrip(".")
    if is_loopback(name):
        return Endpoint(name="localhost", port=port, loopback_of=host)
    return Endpoint(name=name, port=port)


def endpoint_text(process: Process) -> str:
    """The endpoint as it was given; '' where it is not known."""
    planned = process.planned.endpoint if process.planned else ""
    return planned or process.identity.endpoint or ""


def same_endpoint(one: Endpoint, other: Endpoint, state: RunState) -> bool | None:
    """Whether two endpoints are one; None where nothing decides it."""
    if one == other:
        return True
    if not one.known or not other.known:
        return None
    if one.port != other.port or not one.port:
        return False
    if one.loopback_of and other.loopback_of:
        return False  # the same name, but a different host on each
    if one.loopback_of or other.loopback_of:
        loopback, named = (one, other) if one.loopback_of else (other, one)
        return True if _short(named.name) == _short(loopback.loopback_of.lower()) else None
    if _short(one.name) == _short(other.name):
        return True
    ours, theirs = _addresses(one, state), _addresses(other, state)
    if not ours or not theirs:
        return None
    return bool(ours & theirs)


def _short(name: str) -> str:
    # An address has no short form.
    return name if name.replace(".", "").isdigit() or ":" in name else name.partition(".")[0]


def _addresses(place: Endpoint, state: RunState) -> frozenset[str]:
    """The addresses of its name. Loopback is left out: it is a different host on each."""
    found: set[str] = set()
    for host in state.hosts.values():
        for probed in host.endpoints.values():
            if read_endpoint(probed.endpoint, probed.host) == place:
                found |= {address for address in probed.addresses if not is_loopback(address)}
    if place.name.replace(".", "").isdigit():
        found.add(place.name)
    return frozenset(found)


def by_endpoint(processes: Iterable[Process], state: RunState) -> list[list[Process]]:
    """The processes that meet at one endpoint, however each of them writes it."""
    by_place: dict[Endpoint, list[Process]] = {}
    for process in processes:
        by_place.setdefault(endpoint_of(process), []).append(process)
    found: list[tuple[list[Endpoint], list[Process]]] = []
    for place, members in by_place.items():
        here = next((f for f in found if any(same_endpoint(p, place, state) for p in f[0])), None)
        if here is None:
            found.append(([place], members))
        else:
            here[0].append(place)
            here[1].extend(members)
    return [members for _, members in found]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The newest look at an endpoint from one host, and its time (ns of that host's clock)."""

    probed: EndpointProbed
    time_ns: int
    answered_ns: int | None = None
    """When a store last answered at the endpoint."""


def look_from(state: RunState, name: str, place: Endpoint) -> Look | None:
    """What the observer on a host last saw at an endpoint; None where it did not look."""
    host = state.hosts.get(name)
    looks = [
        Look(
            probed=probed,
            time_ns=host.stamps.get(f"endpoint:{endpoint}", (0, "", 0))[0],
            answered_ns=host.answered_ns.get(endpoint),
        )
        for endpoint, probed in (host.endpoints.items() if host else ())
        if host is not None and read_endpoint(endpoint, name) == place
    ]
    return max(looks, key=lambda look: look.time_ns, default=None)


def looks_at(state: RunState, place: Endpoint) -> list[Look]:
    """The newest look of every host, ordered by host."""
    found = [look_from(state, name, place) for name in sorted(state.hosts)]
    return [look for look in found if look is not None]
