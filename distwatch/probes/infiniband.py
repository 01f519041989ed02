"""RDMA ports, InfiniBand and RoCE, as the kernel shows them: whether they are up, and their error counters."""

from __future__ import annotations

import os

from distwatch.probes.procfs import read_text
from distwatch.state.bounds import whole_number
from distwatch.state.events import Port, PortsSampled

ROOT = "/sys/class/infiniband"
_COUNTERS = {
    "counters": (
        "link_downed",
        "link_error_recovery",
        "symbol_error",
        "port_rcv_errors",
        "local_link_integrity_errors",
    ),
    "hw_counters": (
        "local_ack_timeout_err",
        "packet_seq_err",
        "out_of_sequence",
        "rnr_nak_retry_err",
        "req_transport_retries_exceeded",
    ),
}
_MOST_PORTS = 64


class Ports:
    """The ports of this host, compared from look to look. A counter that a driver lacks is not zero."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._first: dict[str, tuple[bool, dict[str, int]]] = {}

    def sample(self, host: str) -> PortsSampled:
        """All ports now. Reading a counter may ask the device: take samples in a separate thread."""
        return PortsSampled(host=host, ports=tuple(map(self._port, self._names())))

    def _names(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for device in _entries(self._root):
            found += [(device, port) for port in _entries(f"{self._root}/{device}/ports")]
        return found[:_MOST_PORTS]

    def _port(self, place: tuple[str, str]) -> Port:
        device, number = place
        name, path = f"{device}:{number}", f"{self._root}/{device}/ports/{number}"
        # `4: ACTIVE`, `5: LinkUp`
        words = [_word(read_text(f"{path}/{file}")) for file in ("state", "phys_state")]
        counts = {
            counter: count
            for folder, counters in _COUNTERS.items()
            for counter in counters
            if (count := whole_number(read_text(f"{path}/{folder}/{counter}"))) is not None
        }
        was_up, first = self._first.setdefault(name, (words[0] == "ACTIVE", counts))
        grown = {
            counter: count - first[counter]
            for counter, count in counts.items()
            if count > first.get(counter, count)
        }
        return Port(name=name, state=", ".join(filter(None, words)), was_up=was_up, grown=grown)


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _word(text: str) -> str:
    return text.partition(":")[2].strip()[:32]
