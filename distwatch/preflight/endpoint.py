"""The address where the ranks are to meet, looked at from this host before anybody goes there."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence

from distwatch.agent.initialization.environment import Launched
from distwatch.agent.initialization.plan import split_endpoint
from distwatch.probes.listeners import Listener, listeners_of
from distwatch.probes.procfs import read_text
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.tcpstore import StoreClient, StoreUnreachable

ANSWER_WITHIN_S = 2.0


def endpoint_findings(
    launched: Launched, environ: Mapping[str, str], *, several_nodes: bool, pid: int
) -> list[Finding]:
    """What keeps a rank from meeting the others, as far as its host shows it.

    Args:
        pid: of the rank: what it listens for itself is no foreign program.
    """
    if launched.method not in ("env", "tcp") or not launched.endpoint:
        return []
    address = split_endpoint(launched.endpoint)
    if address is None:
        what = f"{launched.endpoint!r} is no host and port"
        return [_unreachable(launched, what, "Set MASTER_ADDR and MASTER_PORT.", "crash")]
    host, port = address
    try:
        addresses = resolve(host, port)
    except OSError as error:
        what = f"MASTER_ADDR {host!r} does not resolve on this host ({error})"
        advice = "Correct MASTER_ADDR, or make the name resolve here (getent hosts NAME)."
        return [_unreachable(launched, what, advice, "crash")]
    if several_nodes and all(is_loopback(one) for one in addresses):
        return [_loopback(launched, host, addresses)]
    if launched.hosts_store:
        return _as_host(launched, environ, addresses, port, pid)
    return _as_guest(launched, host, port, pid)


def resolve(host: str, port: int = 0) -> list[str]:
    """The addresses of a name.

    Raises:
        OSError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(error.strerror) from None
    except UnicodeError:
        raise OSError("no host can have that name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_loopback(address: str) -> bool:
    """Whether an address leads back to the host itself."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def own_name_finding(several_nodes: bool, *, gloo_only: bool) -> Finding | None:
    """The host's own name that leads to loopback: gloo would tell other hosts that address."""
    name = socket.gethostname()
    try:
        addresses = resolve(name)
    except OSError:
        addresses = []
    if not several_nodes or not addresses or not all(map(is_loopback, addresses)):
        return None
    return Finding(
        code="rendezvous.interface_invalid",
        severity="crash" if gloo_only else "warning",
        summary=f"this host's name {name!r} resolves to {', '.join(addresses)}: gloo tells ranks on "
        "other hosts to connect there, and they reach themselves",
        advice="Set GLOO_SOCKET_IFNAME to the interface between the hosts, or take the name off the "
        "127.… line of /etc/hosts.",
        evidence=(Evidence(source="proc", text=f"{name}: {', '.join(addresses)}"),),
        confidence=0.8,
    )


def _loopback(launched: Launched, host: str, addresses: Sequence[str]) -> Finding:
    told = host if host in addresses else f"{host}, here {', '.join(addresses)},"
    what = f"MASTER_ADDR {told} is loopback, and the job has several nodes: each would meet only itself"
    advice = "Set MASTER_ADDR to the name or address by which the other hosts reach rank 0's."
    # The other hosts may resolve this one's name rightly, and its own ranks meet on loopback.
    is_own_name = host.partition(".")[0] == socket.gethostname().partition(".")[0]
    if is_own_name:
        advice += " Debian's /etc/hosts gives a host's own name 127.0.1.1: take that line out."
    return _unreachable(launched, what, advice, "warning" if is_own_name else "crash")


def _as_host(
    launched: Launched, environ: Mapping[str, str], addresses: Sequence[str], port: int, pid: int
) -> list[Finding]:
    found = []
    first_free = read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip()
    if port < (int(first_free) if first_free.isdigit() else 1024) and os.geteuid() != 0:
        what = f"rank 0 may not listen on port {port} as uid {os.geteuid()}"
        advice = "Choose a MASTER_PORT from 1024 on, such as 29500."
        found.append(_unreachable(launched, what, advice, "crash"))
    owners = listeners_of(port)
    if owners and all(owner.pid != pid for owner in owners):
        found.append(_taken(launched, port, owners[0]))
    # A Kubernetes service has an address of nobody's, and leads to the right pod.
    if not any(map(_is_own, addresses)) and "KUBERNETES_SERVICE_HOST" not in environ:
        what = f"MASTER_ADDR leads to {', '.join(addresses)}, which is no address of this host, and rank 0 listens here"
        advice = "Make sure that the other hosts reach this one there, or set MASTER_ADDR to its own address."
        found.append(_unreachable(launched, what, advice, "warning"))
    return found


def _as_guest(launched: Launched, host: str, port: int, pid: int) -> list[Finding]:
    try:
        with contextlib.closing(StoreClient.connect(host, port, timeout_s=ANSWER_WITHIN_S)):
            return []
    except StoreUnreachable as error:
        outcome, detail = error.outcome, error.detail
    if outcome == "refused":
        if launched.store_host == "rank 0":
            return []  # it has not come yet
        advice = "Check that the launcher still runs, and MASTER_PORT."
        what = f"{launched.store_host} hosts the store, and {detail}"
        return [_unreachable(launched, what, advice, "crash")]
    if outcome in ("foreign", "silent"):
        local = [owner for owner in listeners_of(port) if owner.pid != pid]
        is_here = any(map(_is_own, resolve(host)))
        return [_taken(launched, port, local[0] if local and is_here else None, detail, outcome)]
    advice = (
        "Check that the host is up, and that no firewall drops this port between the two hosts."
    )
    return [_unreachable(launched, detail, advice, "warning")]


def _taken(
    launched: Launched, port: int, owner: Listener | None, detail: str = "", outcome: str = ""
) -> Finding:
    rank = launched.global_rank
    who = f"{owner} listens there" if owner else "another program listens there"
    told = f"{who}: {detail}" if detail else who
    return Finding(
        code="rendezvous.port_taken",
        # Whoever is silent may be the job's own store, stopped or overrun.
        severity="warning" if outcome == "silent" else "crash",
        waiting_ranks=() if rank is None else (rank,),
        summary=f"MASTER_PORT {port} is taken: {told}",
        advice="Choose another MASTER_PORT, or end that program.",
        evidence=(Evidence(source="proc", text=f"port {port}: {told}"),),
        confidence=0.6 if outcome == "silent" else 0.9,
    )


def _unreachable(launched: Launched, what: str, advice: str, severity: Severity) -> Finding:
    rank = launched.global_rank
    return Finding(
        code="rendezvous.store_unreachable",
        severity=severity,
        waiting_ranks=() if rank is None else (rank,),
        summary=what,
        advice=advice,
        evidence=(Evidence(source="store", global_rank=rank, text=f"{launched.endpoint}: {what}"),),
        confidence=0.9 if severity == "crash" else 0.6,
    )


def _is_own(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trying:
            trying.bind((address.partition("%")[0], 0))
    except OSError:
        return False
    return True
