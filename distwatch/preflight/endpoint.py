"""The store's endpoint, tested from this host before any rank connects to it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence

from distwatch.agent.initialization.environment import Launched
from distwatch.probes.listeners import Listener, listeners_of
from distwatch.probes.procfs import read_text
from distwatch.state.addresses import is_loopback, split_endpoint
from distwatch.state.advice import NO_ANSWER, UNRESOLVED
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.tcpstore import StoreClient, StoreUnreachable

ANSWER_WITHIN_S = 2.0


def endpoint_findings(
    launched: Launched, environ: Mapping[str, str], *, several_nodes: bool, pid: int
) -> list[Finding]:
    """Problems that this host sees with the endpoint of a rank's store.

    Args:
        pid: the rank's own: its listener is not a foreign program.
    """
    if launched.method not in ("env", "tcp") or not launched.endpoint:
        return []
    address = split_endpoint(launched.endpoint)
    if address is None:
        what = f"{launched.endpoint!r} is not a host and port"
        return [_unreachable(launched, what, "Set MASTER_ADDR and MASTER_PORT.", "crash")]
    host, port = address
    try:
        addresses = resolve(host, port)
    except OSError as error:
        what = f"MASTER_ADDR {host!r} does not resolve on this host ({error})"
        return [_unreachable(launched, what, UNRESOLVED, "crash")]
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
        raise OSError("this is not a valid host name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def own_name_finding(several_nodes: bool, *, gloo_only: bool) -> Finding | None:
    """The host's own name resolves to loopback: gloo would give other hosts that address."""
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
        summary=f"this host's name {name!r} resolves to {', '.join(addresses)}: gloo gives ranks on "
        "other hosts this address, and they connect to themselves",
        advice="Set GLOO_SOCKET_IFNAME to the interface between the hosts, or remove the name from the "
        "127.… line in /etc/hosts.",
        evidence=(Evidence("proc", f"{name}: {', '.join(addresses)}"),),
        confidence=0.8,
    )


def _loopback(launched: Launched, host: str, addresses: Sequence[str]) -> Finding:
    told = host if host in addresses else f"{host} (here {', '.join(addresses)})"
    what = f"MASTER_ADDR {told} is loopback, but the job has several nodes: each would connect to itself"
    advice = "Set MASTER_ADDR to a name or address at which the other hosts reach rank 0's host."
    # Other hosts may resolve this host's name correctly, and its own ranks can use loopback.
    is_own_name = host.partition(".")[0] == socket.gethostname().partition(".")[0]
    if is_own_name:
        advice += " Debian maps a host's own name to 127.0.1.1 in /etc/hosts: remove that line."
    return _unreachable(launched, what, advice, "warning" if is_own_name else "crash")


def _as_host(
    launched: Launched, environ: Mapping[str, str], addresses: Sequence[str], port: int, pid: int
) -> list[Finding]:
    found = []
    first_free = read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip()
    if port < (int(first_free) if first_free.isdigit() else 1024) and os.geteuid() != 0:
        what = f"rank 0 may not listen on port {port} as uid {os.geteuid()}"
        advice = "Choose a MASTER_PORT of 1024 or above, such as 29500."
        found.append(_unreachable(launched, what, advice, "crash"))
    owners = listeners_of(port)
    if owners and all(owner.pid != pid for owner in owners):
        found.append(_taken(launched, port, owners[0]))
    # A Kubernetes service has a virtual address that no host owns, and still leads to the right pod.
    if not any(map(_is_own, addresses)) and "KUBERNETES_SERVICE_HOST" not in environ:
        what = (
            f"MASTER_ADDR resolves to {', '.join(addresses)}, which is not an address of this host, "
            "but rank 0 listens on this host"
        )
        advice = "Make sure that the other hosts reach this host there, or set MASTER_ADDR to its own address."
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
            return []  # rank 0 may not have started yet
        advice = "Check MASTER_PORT, and that the launcher still runs."
        what = f"{launched.store_host} hosts the store, and {detail}"
        return [_unreachable(launched, what, advice, "crash")]
    if outcome in ("foreign", "silent"):
        local = [owner for owner in listeners_of(port) if owner.pid != pid]
        is_here = any(map(_is_own, resolve(host)))
        return [_taken(launched, port, local[0] if local and is_here else None, detail, outcome)]
    return [_unreachable(launched, detail, NO_ANSWER, "warning")]


def _taken(
    launched: Launched, port: int, owner: Listener | None, detail: str = "", outcome: str = ""
) -> Finding:
    rank = launched.global_rank
    who = f"{owner} listens there" if owner else "another program listens there"
    told = f"{who}: {detail}" if detail else who
    return Finding(
        code="rendezvous.port_taken",
        # A listener that does not answer may be the job's own store, stopped or overloaded.
        severity="warning" if outcome == "silent" else "crash",
        waiting_ranks=() if rank is None else (rank,),
        summary=f"MASTER_PORT {port} is taken: {told}",
        evidence=(Evidence("proc", f"port {port}: {told}"),),
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
        evidence=(Evidence("store", f"{launched.endpoint}: {what}", rank),),
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
