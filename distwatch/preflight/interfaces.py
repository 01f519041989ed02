"""The network interfaces of this host, and the variables that name some of them."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping

import msgspec

from distwatch.probes.procfs import read_text
from distwatch.state.finding import Evidence, Finding, Severity

_EXACT = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_PATTERNS = "NCCL_SOCKET_IFNAME"
_UP, _LOOPBACK = 0x1, 0x8
_SIOCGIFADDR = 0x8915
_LISTED = 8


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface. `mtu` is None where the system does not say."""

    name: str
    is_up: bool
    is_loopback: bool = False
    addresses: tuple[str, ...] = ()
    mtu: int | None = None

    @property
    def can_talk(self) -> bool:
        """Whether a rank could reach others through it."""
        return self.is_up and bool(self.addresses)

    @property
    def lack(self) -> str:
        """Why ranks cannot communicate through it; '' where they can."""
        if not self.is_up:
            return "is down"
        return "" if self.addresses else "has no address"


def read_interfaces() -> dict[str, Interface]:
    """The interfaces of this network namespace by name; empty where they cannot be listed."""
    try:
        names = [name for _, name in socket.if_nameindex()]
    except OSError:
        return {}
    inet6 = _inet6_addresses()
    found = {}
    for name in names:
        flags = read_text(f"/sys/class/net/{name}/flags").strip()
        mtu = read_text(f"/sys/class/net/{name}/mtu").strip()
        bits = int(flags, 16) if flags else _UP
        inet = _inet_address(name)
        found[name] = Interface(
            name=name,
            is_up=bool(bits & _UP),
            is_loopback=bool(bits & _LOOPBACK),
            addresses=(*([inet] if inet else []), *sorted(inet6.get(name, ()), key=_is_link_local)),
            mtu=int(mtu) if mtu.isdigit() else None,
        )
    return found


def interface_findings(
    environ: Mapping[str, str],
    interfaces: Mapping[str, Interface],
    *,
    several_nodes: bool,
    uses_nccl: bool,
) -> list[Finding]:
    """Findings for variables that name interfaces through which no rank can communicate."""
    found = []
    for variable in _EXACT:
        wanted = [name for name in environ.get(variable, "").split(",") if name]
        for name in wanted:
            if why := _unusable(name, interfaces, several_nodes):
                found.append(_finding(variable, environ[variable], why, interfaces, "crash"))
                break
    if environ.get(_PATTERNS):
        value = environ[_PATTERNS]
        if not any(one.can_talk for one in matching(value, interfaces.values())):
            why = "no interface with an address matches it"
            severity: Severity = "crash" if uses_nccl else "warning"
            found.append(_finding(_PATTERNS, value, why, interfaces, severity))
    return found


def matching(value: str, interfaces: Iterable[Interface]) -> list[Interface]:
    """The interfaces that NCCL_SOCKET_IFNAME selects: `eth,ib0`, `=eth0`, `^docker,lo`."""
    is_excluding = value.startswith("^")
    rest = value[1:] if is_excluding else value
    is_exact = rest.startswith("=")
    words = [word for word in (rest[1:] if is_exact else rest).split(",") if word]

    def fits(name: str) -> bool:
        return any(name == word if is_exact else name.startswith(word) for word in words)

    return [one for one in interfaces if fits(one.name) is not is_excluding]


def _unusable(name: str, interfaces: Mapping[str, Interface], several_nodes: bool) -> str:
    one = interfaces.get(name)
    if one is None:
        near = difflib.get_close_matches(name, interfaces, n=1)
        return f"this host has no interface {name!r}" + (f" (but {near[0]!r})" if near else "")
    if one.lack:
        return f"{name} {one.lack}"
    if several_nodes and one.is_loopback:
        return f"{name} does not lead to other hosts, but the job has several nodes"
    return ""


def _finding(
    variable: str, value: str, why: str, interfaces: Mapping[str, Interface], severity: Severity
) -> Finding:
    usable = [one.name for one in interfaces.values() if one.can_talk and not one.is_loopback]
    named = ", ".join(usable[:_LISTED]) or "only loopback has an address"
    return Finding(
        code="rendezvous.interface_invalid",
        severity=severity,
        summary=f"{variable}={value}: {why}",
        advice=f"Unset {variable}, or name one that this host has: {named}.",
        evidence=tuple(
            Evidence("proc", f"{one.name}: {one.lack or ', '.join(one.addresses)}")
            for one in list(interfaces.values())[:_LISTED]
        ),
    )


def _is_link_local(address: str) -> bool:
    return ipaddress.ip_address(address).is_link_local


def _inet_address(name: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("256s", name.encode()[:15])
        answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)
        return socket.inet_ntoa(answer[20:24])
    return None


def _inet6_addresses() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in read_text("/proc/self/net/if_inet6").splitlines():
        fields = line.split()
        if len(fields) == 6:
            address = str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))
            found[fields[5]] = (*found.get(fields[5], ()), address)
    return found
