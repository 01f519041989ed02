"""What answers at a rendezvous endpoint. It only looks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

import msgspec
import psutil

from distwatch.probes.listeners import Listener, listeners_of
from distwatch.probes.store_keys import Expected, arrived_ranks
from distwatch.runfolder import host_name
from distwatch.state.addresses import plain_address
from distwatch.state.events import EndpointProbed
from distwatch.tcpstore import StoreClient, StoreUnreachable

ANSWER_WITHIN_S = 2.0
"""The limit for each connection, and for each answer."""
LISTED_FROM_AFAR = 512
"""Keys of larger worlds are listed only on the store's own host: every node looks at the one store."""
_TRIED = 4
_TELLING = ("refused", "no_answer", "unresolved", "error")
"""Of several addresses without an answer, a refusal counts first: it shows at least a living host."""


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of a name; without any: why not."""

    addresses: tuple[str, ...] = ()
    why: str = ""


def resolve(host_name: str, port: int) -> Resolved:
    """Looks a name up. Blocks for as long as the name server takes."""
    try:
        found = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not a host name"
        return Resolved(why=f"{host_name[:255]!r} does not resolve ({words})")
    return Resolved(addresses=tuple(dict.fromkeys(str(place[0]) for *_, place in found)))


def probe_endpoint(
    endpoint: str,
    address: tuple[str, int],
    *,
    resolved: Resolved | None = None,
    expected: Expected | None = None,
    ranks: Iterable[int] = (),
    likely: Iterable[int] = (),
) -> EndpointProbed:
    """Resolves, connects, pings, and reads who has arrived. Blocks for some seconds at most.

    Args:
        endpoint: as the ranks write it; the event has it in this form.
        address: the same, split into host name and port.
        resolved: what `resolve` returned for the name, where it was looked up already.
        expected: the world whose ranks are looked for in the store; without it no ranks are named.
        ranks: processes of this host that wait there; where they are in another network namespace
            than this process, nothing is visible.
        likely: processes that probably listen there.
    """
    host_name, port = address
    away = _other_networks(ranks)
    if away:
        return _not_seen(endpoint, port, away)
    resolved = resolve(host_name, port) if resolved is None else resolved
    probed, met = _look(endpoint, port, resolved, expected)
    meant = (met,) if met else resolved.addresses
    if not meant or not is_here(meant):
        return probed
    return _with_owner(probed, meant, listeners_of(port, likely=likely))


def is_here(addresses: Iterable[str]) -> bool:
    """Whether any of them is an address of this host: of an interface, or loopback."""
    own = {
        plain_address(address.address)
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    places = [plain_address(address) for address in addresses]
    return any(one.is_loopback or one.is_unspecified or one in own for one in places)


def _look(
    endpoint: str, port: int, resolved: Resolved, expected: Expected | None
) -> tuple[EndpointProbed, str]:
    """What is there, and the address that accepted the connection, if one did."""
    seen = EndpointProbed(
        host=host_name(),
        endpoint=endpoint,
        outcome="unresolved",
        detail=resolved.why,
        addresses=resolved.addresses,
    )
    failures: list[StoreUnreachable] = []
    for address in resolved.addresses[:_TRIED]:
        try:
            with StoreClient.connect(address, port, timeout_s=ANSWER_WITHIN_S) as client:
                return _read(client, seen, expected), address
        except StoreUnreachable as error:
            if error.outcome not in _TELLING:
                return _failed(seen, error), address
            failures.append(error)
    if not failures:
        return seen, ""
    return _failed(seen, min(failures, key=lambda error: _TELLING.index(error.outcome))), ""


def _failed(seen: EndpointProbed, error: StoreUnreachable) -> EndpointProbed:
    return msgspec.structs.replace(seen, outcome=error.outcome, detail=error.detail)


def _read(client: StoreClient, seen: EndpointProbed, expected: Expected | None) -> EndpointProbed:
    """What an answering store holds; `detail` says what it does not tell."""
    clients: int | None = None
    arrived: tuple[int, ...] = ()
    detail = ""
    try:
        clients = client.count_clients()
        if expected is not None and _may_list(expected, seen.addresses):
            arrived, detail = arrived_ranks(client.list_keys(), expected)
    except TimeoutError:
        detail = "it answers, but does not list its keys in time"
    except (OSError, ValueError):
        # It has answered a ping, so it hung up because it does not know the query.
        detail = "it does not list its keys (torch before 2.10)"
    return msgspec.structs.replace(
        seen, outcome="store", detail=detail, clients=clients, arrived=arrived
    )


def _may_list(expected: Expected, addresses: tuple[str, ...]) -> bool:
    return (expected.world_size or 0) <= LISTED_FROM_AFAR or is_here(addresses)


def _with_owner(
    probed: EndpointProbed, addresses: tuple[str, ...], listeners: list[Listener]
) -> EndpointProbed:
    """The listener at the address; else one that has the port at another address."""

    def nearness(listener: Listener) -> int:
        return max(listener.nearness(address) for address in addresses)

    if not listeners:
        return probed
    meant = max(listeners, key=nearness)
    if nearness(meant):
        return _owned(probed, meant)
    if probed.outcome != "refused":
        return probed  # the process that answered is not visible
    detail = f"{probed.detail}; {meant} holds this port at {meant.address}"
    return _owned(msgspec.structs.replace(probed, detail=detail), meant)


def _owned(probed: EndpointProbed, owner: Listener) -> EndpointProbed:
    return msgspec.structs.replace(
        probed, owner_pid=owner.pid, owner_command=owner.command, owner_process=owner.process
    )


def _not_seen(endpoint: str, port: int, away: dict[str, int]) -> EndpointProbed:
    several = len(away) > 1
    whose = "several network namespaces" if several else "another network namespace"
    probed = EndpointProbed(
        host=host_name(),
        endpoint=endpoint,
        outcome="error",
        detail=f"not observed: the ranks of this host are in {whose}",
    )
    try:
        listeners = [] if several else listeners_of(port, network_of=next(iter(away.values())))
    except ProcessLookupError:
        return probed
    if len(listeners) != 1:
        return probed
    return _owned(probed, listeners[0])


def _other_networks(pids: Iterable[int]) -> dict[str, int]:
    """The network namespaces of those processes, one process for each; empty where all are in this one."""
    own = os.readlink("/proc/self/ns/net")
    found: dict[str, int] = {}
    for pid in pids:
        try:
            found.setdefault(os.readlink(f"/proc/{pid}/ns/net"), pid)
        except OSError:
            continue  # it has ended, or is not readable
    return {} if set(found) <= {own} else found
