"""What is seen of a host and its devices; what is not seen is said."""

from __future__ import annotations

import threading

import pytest

from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks import host_looks
from distwatch.observer.looks.host_looks import HostLooks
from distwatch.observer.targets.runs import load_state
from distwatch.probes.devices import Devices
from distwatch.probes.infiniband import Ports
from distwatch.report.document import build_report
from distwatch.report.markdown import render_markdown
from distwatch.runfolder import RunFolder, host_name
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.doubles.nvml import FULL, NvmlDouble

XIDS = f"devices: xid on {host_name()}"
DRIVER = f"devices: driver on {host_name()}"


class SilentNvml(NvmlDouble):
    """A driver whose call for a device returns when the test says so."""

    def __init__(self) -> None:
        super().__init__([FULL], xids=[])
        self.answers_now = threading.Event()

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.answers_now.wait()
        return index


class Watch:
    """Looks whose events are journaled, and kept in order."""

    def __init__(self, folder: RunFolder, nvml: NvmlDouble) -> None:
        self.events: list[ev.Event] = []
        self.folder = folder
        self.recording = Recording(folder, lambda _h, _s, _t, event: self.events.append(event))
        self.looks = HostLooks(
            self.recording, Devices(nvml, "/nonexistent/kmsg"), Ports("/nonexistent/infiniband")
        )

    async def look(self) -> None:
        self.looks.look()
        assert self.looks._looking is not None
        await self.looks._looking

    def state(self) -> RunState:
        """As it stands on the disk once all is over."""
        self.looks.close()
        self.recording.close()
        return load_state(self.folder)


async def test_xids_that_nobody_tells_are_journaled_once_and_reported(folder: RunFolder) -> None:
    watch = Watch(folder, NvmlDouble([FULL], xids=None))
    await watch.look()
    await watch.look()
    missed = [event for event in watch.events if isinstance(event, ev.NotObserved)]
    assert [(event.host, event.what) for event in missed] == [(host_name(), "devices: xid")]
    report = build_report(watch.state(), [], "run-1")
    assert "the kernel log cannot be read" in report.coverage.not_observed[XIDS]
    assert f"{XIDS}: the driver gives no events" in render_markdown(report)


async def test_devices_whose_xids_are_seen_leave_nothing_unseen(folder: RunFolder) -> None:
    watch = Watch(folder, NvmlDouble([FULL], xids=[(0, 79)]))
    await watch.look()
    report = build_report(watch.state(), [], "run-1")
    assert report.coverage.not_observed == {}
    assert report.devices[0].devices[0]["xid"] == (79,)


async def test_a_driver_that_hangs_holds_up_nobody_and_is_said(folder: RunFolder) -> None:
    watch = Watch(folder, nvml := SilentNvml())
    watch.looks.look()
    watch.looks.look()
    assert sum(isinstance(event, ev.HostSampled) for event in watch.events) == 2
    (missed,) = [event for event in watch.events if isinstance(event, ev.NotObserved)]
    assert missed.what == "devices: driver"
    nvml.answers_now.set()
    assert watch.looks._looking is not None
    await watch.looks._looking
    report = build_report(watch.state(), [], "run-1")
    assert DRIVER in report.coverage.not_observed
    assert [device["name"] for device in report.devices[0].devices] == ["H200"]


async def test_a_driver_that_fails_in_its_own_way_is_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> int:
        raise MemoryError("the library's own")

    nvml = NvmlDouble([FULL], xids=[])
    monkeypatch.setattr(nvml, "nvmlInit", fails.__get__(nvml))
    watch = Watch(folder, nvml)
    await watch.look()
    report = build_report(watch.state(), [], "run-1")
    assert report.coverage.not_observed[DRIVER] == "MemoryError: the library's own"


def test_shared_memory_is_sampled_only_where_it_is_scarce(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ev.Event] = []
    recording = Recording(folder, lambda _h, _s, _t, event: told.append(event))
    looks = HostLooks(recording, Devices(), Ports())
    for free in (900, 20, 800):
        monkeypatch.setattr(host_looks, "shared_memory", lambda path, free=free: (1000, free))
        looks._look_at_shared_memory()
    recording.close()
    seen = [one for one in told if isinstance(one, ev.SharedMemorySampled)]
    assert [(one.free, one.least_free) for one in seen] == [(20, 20), (800, 20)]
