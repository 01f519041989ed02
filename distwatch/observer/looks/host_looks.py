"""The observer's view of its host: memory and load at once, GPUs and RDMA ports when their drivers answer."""

from __future__ import annotations

import asyncio
import time

from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.probes.devices import Devices
from distwatch.probes.host import SHM, sample_host, shared_memory
from distwatch.probes.infiniband import Ports
from distwatch.state.events import SharedMemorySampled

KEPT_S = 60.0
SCARCE = 0.1


class HostLooks:
    """One look at a time: if a device hangs, its driver's calls may never return."""

    def __init__(self, recording: Recording, devices: Devices, ports: Ports) -> None:
        self._recording = recording
        self._devices = devices
        self._ports = ports
        self._host = recording.header.host
        self._looking: asyncio.Task[None] | None = None
        self._frees: list[tuple[float, int]] = []
        """When, and how many bytes of /dev/shm were free then."""

    def look(self) -> None:
        """Samples the host, and its devices unless the previous look is still under way."""
        self._recording.record(sample_host(self._host))
        self._look_at_shared_memory()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_at_devices())
        else:
            self._miss_driver("it did not answer before the next look was due")

    def close(self) -> None:
        """Closes the devices, unless a call to their driver is under way: nobody waits for that."""
        if self._looking is None or self._looking.done():
            self._devices.close()
        else:
            self._looking.cancel()

    def _look_at_shared_memory(self, path: str = SHM) -> None:
        room = shared_memory(path)
        if room is None:
            return
        total, free = room
        now = time.monotonic()
        self._frees = [one for one in self._frees if one[0] > now - KEPT_S] + [(now, free)]
        least = min(seen for _, seen in self._frees)
        if least < SCARCE * total:
            self._recording.record(
                SharedMemorySampled(host=self._host, total=total, free=free, least_free=least)
            )

    async def _look_at_devices(self) -> None:
        try:
            ports = await in_background(self._ports.sample, self._host, within_s=None)
            if ports.ports:
                self._recording.record(ports)
            sampled = await in_background(self._devices.sample, self._host, within_s=None)
        except Exception as error:
            self._miss_driver(f"{type(error).__name__}: {error}"[:300])
            return
        self._recording.record(sampled)
        for missed in self._devices.blind_spots(self._host):
            self._recording.miss(missed.what, missed.why, once=True)

    def _miss_driver(self, why: str) -> None:
        self._recording.miss("devices: driver", why, once=True)
