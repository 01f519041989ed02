"""Addresses of hosts, as text. Pure."""

from __future__ import annotations

import functools
import ipaddress

from distwatch.state.bounds import whole_number

_LOOPBACK_NAMES = ("localhost", "ip6-localhost", "localhost.localdomain")


def plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address without its interface; IPv4 where it is an IPv4-mapped IPv6 address.

    Raises:
        ValueError: the text is not an address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@functools.lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether a name or an address means the local host, on any host."""
    try:
        return plain_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in _LOOPBACK_NAMES


def split_endpoint(endpoint: str) -> tuple[str, int] | None:
    """The host and port of `host:port` (an IPv6 host with or without brackets); None for other text."""
    host, colon, port = endpoint.rpartition(":")
    number = whole_number(port)
    if not colon or not host or number is None or number > 65535:
        return None
    return host.strip("[]"), number
