"""Several machines on one: each with its own network, host name and process table, on one switch.

Namespaces of the kernel, all of them: an observer on one sees nothing of another but what comes
by the wire. They share the disk: each gets a run root of its own, as machines without a shared
folder have.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import pytest

INTERFACE = "eth0"
_TOOLS = ("ip", "nft", "unshare", "nsenter")
_INIT = """
import signal, socket, sys
socket.sethostname(sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""
_CUT = """
add table inet cut
add chain inet cut input { type filter hook input priority 0; }
add chain inet cut output { type filter hook output priority 0; }
add rule inet cut input tcp sport %(port)d drop
add rule inet cut input tcp dport %(port)d drop
add rule inet cut output tcp sport %(port)d drop
add rule inet cut output tcp dport %(port)d drop
"""
_BLACK_HOLE = """
add table inet cut
add chain inet cut output { type filter hook output priority 0; }
add rule inet cut output tcp dport %(port)d meta length > %(above)d drop
add rule inet cut output tcp sport %(port)d meta length > %(above)d drop
"""


class Machine:
    """One of them. `name` is its host name; its monotonic clock is `ahead_s` ahead of the others'."""

    def __init__(self, name: str, namespace: str, address: str, ahead_s: int = 0) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address
        inside = ["unshare", "--uts", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
        if ahead_s:
            inside += ["--time", "--monotonic", str(ahead_s), "--boottime", str(ahead_s)]
        self._init = subprocess.Popen(
            [
                *("ip", "netns", "exec", namespace),
                *inside,
                *(sys.executable, "-c", _INIT, name),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None
        ready, _, _ = select.select([self._init.stdout], [], [], 60)
        assert ready, f"{name} does not come up"
        assert self._init.stdout.readline() == "up\n", f"{name} does not come up"

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` there."""
        with open(f"/proc/{self._init.pid}/task/{self._init.pid}/children") as file:
            pid = file.read().split()[0]
        inside = ("--net", "--uts", "--pid", "--mount", "--time")
        return ["nsenter", "-t", pid, *inside, "--", *command]

    def run(self, *command: str, words: str | None = None) -> str:
        return _run(*self.command(command), words=words)

    def cut(self, port: int) -> None:
        """Nothing from or to that port passes any more, and nobody is told."""
        self.run("nft", "-f", "-", words=_CUT % {"port": port})

    def swallow(self, port: int, above: int) -> None:
        """Packets to or from that port of more than so many bytes get lost, as where an MTU is wrong."""
        self.run("nft", "-f", "-", words=_BLACK_HOLE % {"port": port, "above": above})

    def heal(self) -> None:
        self.run("nft", "delete", "table", "inet", "cut")

    def close(self) -> None:
        """Switches it off: all its processes end."""
        self._init.kill()
        self._init.wait()
        assert self._init.stdout is not None
        self._init.stdout.close()


@contextlib.contextmanager
def machines(count: int, ahead_s: Mapping[int, int] | None = None) -> Iterator[list[Machine]]:
    """Machines that reach each other; skips where the system lets nobody make them.

    Args:
        ahead_s: how far the clocks of some are ahead, by the number of the machine.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if os.getuid() != 0 or missing:
        pytest.skip(f"machines need root and tools; here: uid {os.getuid()}, without {missing}")
    mark = f"dw{os.getpid()}"
    with contextlib.ExitStack() as undo:
        switch = f"{mark}-sw"
        _add_namespace(switch, undo)
        _in(switch, "ip", "link", "add", "br0", "type", "bridge")
        _in(switch, "ip", "link", "set", "br0", "up")
        made: list[Machine] = []
        for number in range(1, count + 1):
            namespace = f"{mark}-{number}"
            _add_namespace(namespace, undo)
            address = f"10.212.{os.getpid() % 250}.{number}"
            _plug_in(switch, namespace, f"{mark}p{number}"[-14:], address)
            machine = Machine(f"node{number}", namespace, address, (ahead_s or {}).get(number, 0))
            undo.callback(machine.close)
            made.append(machine)
        yield made


def _add_namespace(name: str, undo: contextlib.ExitStack) -> None:
    _run("ip", "netns", "add", name)
    undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)


def _plug_in(switch: str, namespace: str, port: str, address: str) -> None:
    _in(
        switch, "ip", "link", "add", port, "type", "veth",
        "peer", "name", INTERFACE, "netns", namespace,
    )  # fmt: skip
    _in(switch, "ip", "link", "set", port, "master", "br0", "up")
    _in(namespace, "ip", "addr", "add", f"{address}/24", "dev", INTERFACE)
    _in(namespace, "ip", "link", "set", INTERFACE, "up")
    _in(namespace, "ip", "link", "set", "lo", "up")


def _in(namespace: str, *command: str) -> None:
    _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str, words: str | None = None) -> str:
    done = subprocess.run(command, input=words, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
