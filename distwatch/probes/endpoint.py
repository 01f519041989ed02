"""What answers at the address where the ranks of a job are to meet. It only looks."""

from __future__ import annotations

import ipaddress
import os
import re
import socket

import msgspec
import psutil

from distwatch.probes.listeners import Listener, listeners_of
from distwatch.state.events import EndpointProbed
from distwatch.tcpstore import Outcome, StoreClient, StoreUnreachable

ANSWER_WITHIN_S = 2.0
_GLOO_ADDRESS = re.compile(r"/default_pg/0//\w+//\d+/(\d+)")
"""Where a rank of the default group publishes its address, as it enters: torch 2.10 to 2.13."""
_OUR_WORD = re.compile(r"/distwatch/(\d+)/(\d+)/(\d+)/rank/(\d+)")


def probe_endpoint(host_name: str, port: int, *, network_of: int | None = None) -> EndpointProbed:
    """Resolves, connects, pings, and reads who has come. Blocks for some seconds at most.

    Args:
        host_name: name or address, as the ranks were given it.
        network_of: a rank; where it lives in a network of its own, nothing is seen from here.
    """
    endpoint = f"[{host_name}]:{port}" if ":" in host_name else f"{host_name}:{port}"
    if network_of is not None and not _same_network(network_of):
        away = EndpointProbed(
            host=os.uname().nodename,
            endpoint=endpoint,
            outcome="error",
            detail="not observed: the ranks live in a network of their own",
        )
        return _with_owner(away, listeners_of(port, network_of=network_of))
    addresses = _addresses(host_name, port)
    listeners = listeners_of(port) if _is_here(addresses) else []
    return _with_owner(_look(host_name, port, endpoint, addresses), listeners)


def _look(host_name: str, port: int, endpoint: str, addresses: tuple[str, ...]) -> EndpointProbed:
    here = os.uname().nodename
    outcome: Outcome
    try:
        with StoreClient.connect(host_name, port, timeout_s=ANSWER_WITHIN_S) as client:
            return EndpointProbed(
                host=here,
                endpoint=endpoint,
                outcome="store",
                addresses=addresses,
                clients=client.count_clients(),
                arrived=_arrived(client),
            )
    except StoreUnreachable as error:
        outcome, detail = error.outcome, error.detail
    except OSError as error:
        outcome, detail = "error", str(error)
    return EndpointProbed(
        host=here, endpoint=endpoint, outcome=outcome, detail=detail, addresses=addresses
    )


def _with_owner(probed: EndpointProbed, listeners: list[Listener]) -> EndpointProbed:
    if not listeners:
        return probed
    first = listeners[0]
    return msgspec.structs.replace(
        probed,
        owner_pid=first.pid,
        owner_command=first.command,
        owner_process=first.process,
    )


def _arrived(client: StoreClient) -> tuple[int, ...]:
    try:
        keys = client.list_keys()
    except OSError:
        return ()  # torch before 2.10 cannot list, and hangs up
    ranks = {int(found[1]) for key in keys if (found := _GLOO_ADDRESS.fullmatch(key))}
    words = [tuple(map(int, found.groups())) for key in keys if (found := _OUR_WORD.fullmatch(key))]
    newest = max((word[:3] for word in words), default=None)
    return tuple(sorted(ranks | {word[3] for word in words if word[:3] == newest}))


def _addresses(host_name: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(place[0]) for *_, place in found))


def _is_here(addresses: tuple[str, ...]) -> bool:
    """Whether any of them is an address of this host."""
    own = {
        address.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for address in interface
    }
    return any(
        one in own or ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses
    )


def _same_network(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return True
