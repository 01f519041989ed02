"""The network of this host that ranks communicate through."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from distwatch.preflight.check_result import Checked, failed, passed, warned
from distwatch.preflight.endpoint import resolve
from distwatch.preflight.interfaces import Interface, read_interfaces
from distwatch.probes.listeners import Listener, listeners_of
from distwatch.probes.procfs import read_text
from distwatch.state.addresses import is_loopback
from distwatch.state.bounds import whole_number

TORCHRUNS_DEFAULT = 29500
_FEW_PORTS = 2000
_LISTED = 6


def host_name() -> Checked:
    """Whether other hosts would get an address that leads to this host."""
    name = socket.gethostname()
    try:
        addresses = resolve(name)
    except OSError as error:
        return judge_host_name(name, (), str(error))
    return judge_host_name(name, addresses, "")


def judge_host_name(name: str, addresses: Iterable[str], error: str) -> Checked:
    """The rule behind `host_name`."""
    what, found = "host name", list(addresses)
    if not found:
        fix = "Add it to /etc/hosts or the name service, or set GLOO_SOCKET_IFNAME."
        return warned(what, f"{name} does not resolve ({error}): gloo falls back to loopback", fix)
    told = f"{name} is {', '.join(found)}"
    if all(map(is_loopback, found)):
        fix = "For jobs on several hosts: set GLOO_SOCKET_IFNAME, or remove the name from the 127.… line in /etc/hosts."
        return warned(what, f"{told}: loopback, which other hosts cannot reach", fix)
    return passed(what, told)


def interfaces() -> Checked:
    """The interfaces that ranks could use."""
    return judge_interfaces(read_interfaces())


def judge_interfaces(found: Mapping[str, Interface]) -> Checked:
    """The rule behind `interfaces`."""
    what = "interfaces"
    usable = [one for one in found.values() if one.can_talk and not one.is_loopback]
    told = "; ".join(_told(one) for one in usable[:_LISTED])
    if not usable:
        fix = "Jobs on this host alone work. For jobs on several hosts, bring an interface up."
        return warned(what, "only loopback has an address", fix)
    if len({one.mtu for one in usable}) > 1 and len(usable) > 1:
        told += " (their MTUs differ: name the one that ranks should use)"
    return passed(what, told)


def _told(one: Interface) -> str:
    mtu = f", MTU {one.mtu}" if one.mtu is not None else ""
    return f"{one.name} {' '.join(one.addresses[:2])}{mtu}"


def ports(environ: Mapping[str, str]) -> Checked:
    """MASTER_PORT, or torchrun's default, and the system's range of ephemeral ports."""
    said = environ.get("MASTER_PORT", "")
    number = whole_number(said) or 0
    port = number if 0 < number < 65536 else TORCHRUNS_DEFAULT
    low, _, high = read_text("/proc/sys/net/ipv4/ip_local_port_range").strip().partition("\t")
    span = (int(low), int(high)) if low.isdigit() and high.strip().isdigit() else None
    name = f"MASTER_PORT {port}" if said else f"port {port} (torchrun's default)"
    return judge_ports(name, port, listeners_of(port), span)


def judge_ports(
    name: str, port: int, owners: Iterable[Listener], span: tuple[int, int] | None
) -> Checked:
    """The rule behind `ports`."""
    what, taken = "ports", list(owners)
    given = (
        f"ephemeral ports are {span[0]} to {span[1]}"
        if span
        else "the range of ephemeral ports is not known"
    )
    if taken:
        fix = "Choose another port (torchrun --master-port, MASTER_PORT), or end that program."
        return warned(what, f"{name} is taken by {taken[0]}", fix)
    if span is not None and span[1] - span[0] < _FEW_PORTS:
        fix = "sysctl net.ipv4.ip_local_port_range='32768 60999'"
        return warned(what, f"{name} is free; {given}: few for the connections of many ranks", fix)
    if span is not None and span[0] <= port <= span[1]:
        fix = f"Choose one below {span[0]}, such as {TORCHRUNS_DEFAULT}."
        return warned(what, f"{name} is free, but {given}: any program may be given it", fix)
    return passed(what, f"{name} is free; {given}")


def loopback() -> Checked:
    """Whether a process here can connect to another at all."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
    except OSError as error:
        fix = "Bring the loopback interface up: ip link set lo up."
        return failed("loopback", f"cannot connect to 127.0.0.1: {error}", fix)
    return passed("loopback", "connections to 127.0.0.1 work")
