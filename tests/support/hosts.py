"""Two hosts on one machine: network namespaces with a cable between them, and a firewall.

They share the disk and the host name, not the network. Each test gives each of them a run root
of its own, so that each has its own observer, as two machines have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import pytest

INTERFACE = "eth0"
_BLACK_HOLE = """
add table inet distwatch
add chain inet distwatch input { type filter hook input priority 0; }
add rule inet distwatch input %s drop
"""


class Host:
    """One network namespace."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` there, in the same process."""
        return ["ip", "netns", "exec", self.name, *command]

    def drop_packets_to(self, port: int) -> None:
        """From now on nothing that comes for that port gets an answer of any kind."""
        _run(*self.command(["nft", "-f", "-"]), words=_BLACK_HOLE % f"tcp dport {port}")

    def drop_packets_from(self, other: Host) -> None:
        """From now on nothing that the other host sends arrives, and nobody is told."""
        _run(*self.command(["nft", "-f", "-"]), words=_BLACK_HOLE % f"ip saddr {other.address}")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other; skips where the system lets nobody make them."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if os.getuid() != 0 or missing:
        pytest.skip(
            f"network namespaces need root, ip and nft; here: uid {os.getuid()}, without {missing}"
        )
    hosts = [Host(f"dw{os.getpid()}-{n}", f"10.211.{os.getpid() % 250}.{n}") for n in (1, 2)]
    made: list[Host] = []
    try:
        for host in hosts:
            _run("ip", "netns", "add", host.name)
            made.append(host)
        _connect(*hosts)
        yield hosts[0], hosts[1]
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], check=False)


def _connect(first: Host, second: Host) -> None:
    ends = [(first, f"{first.name}v"[-15:]), (second, f"{second.name}v"[-15:])]
    _run("ip", "link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1])
    for host, end in ends:
        _run("ip", "link", "set", end, "netns", host.name)
        for words in (
            ("ip", "link", "set", end, "name", INTERFACE),
            ("ip", "addr", "add", f"{host.address}/24", "dev", INTERFACE),
            ("ip", "link", "set", INTERFACE, "up"),
            ("ip", "link", "set", "lo", "up"),
        ):
            _run(*host.command(words))


def _run(*command: str, words: str | None = None) -> None:
    done = subprocess.run(command, input=words, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
