"""What the viewer has seen of CPU and devices over time: the state keeps only the newest sample of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from distwatch.state.host import Host
from distwatch.state.model import Process, RunState

KEPT = 24
MOST_PROCESSES = 2048
"""Of a larger run no process has a trend: it would take memory for what nobody sees at once."""


class Trends:
    """The newest values, as far as this viewer has looked on."""

    def __init__(self) -> None:
        self._cpu: dict[str, deque[float]] = {}
        self._file_bytes: dict[str, deque[float]] = {}
        self._devices: dict[tuple[str, int], deque[float]] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def note(self, state: RunState) -> None:
        """Takes in the newest samples; one that was seen before counts once."""
        for process in state.processes.values() if len(state.processes) <= MOST_PROCESSES else ():
            self._note_process(process)
        for host in state.hosts.values():
            self._note_host(host)

    def cpu(self, process: Process) -> Sequence[float]:
        """Shares of a core that a process used between samples, the oldest first."""
        return tuple(self._cpu.get(process.key, ()))

    def file_bytes(self, process: Process) -> Sequence[float]:
        """Bytes a second that a process read and wrote, the oldest first; empty while nobody waits for it."""
        return tuple(self._file_bytes.get(process.key, ()))

    def device(self, host: str, index: int) -> Sequence[float]:
        """Use of a device in percent, the oldest first."""
        return tuple(self._devices.get((host, index), ()))

    def _note_process(self, process: Process) -> None:
        sample, stamp = process.outside.sample, process.outside.stamps.get("sample")
        if sample is None or stamp is None or sample.cpu_s is None:
            return
        before = self._last.get(process.key)
        if before is not None and stamp[0] <= before[0]:
            return
        self._last[process.key] = stamp[0], sample.cpu_s
        if before is not None:
            share = max(0.0, (sample.cpu_s - before[1]) / ((stamp[0] - before[0]) / 1e9))
            self._cpu.setdefault(process.key, deque(maxlen=KEPT)).append(share)
        if (flow := sample.flow) is not None and flow.over_s:
            moved = flow.main, flow.others
            rate = sum(one.read_bytes + one.written_bytes for one in moved) / flow.over_s
            self._file_bytes.setdefault(process.key, deque(maxlen=KEPT)).append(rate)

    def _note_host(self, host: Host) -> None:
        stamp = host.stamps.get("devices")
        if host.devices is None or stamp is None:
            return
        if self._last.get(host.host, (0, 0.0))[0] >= stamp[0]:
            return
        self._last[host.host] = stamp[0], 0.0
        for device in host.devices.devices:
            if device.utilization is not None:
                key = host.host, device.index
                self._devices.setdefault(key, deque(maxlen=KEPT)).append(float(device.utilization))
