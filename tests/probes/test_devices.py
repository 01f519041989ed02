"""NVML without a driver for real, and with devices through a double of pynvml."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distwatch.probes.devices import Devices
from distwatch.state.events import Device, DevicesSampled, DeviceUse


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has NVIDIA's driver")
def test_a_machine_without_a_driver_says_so() -> None:
    devices = Devices()
    found = devices.sample("here")
    assert found.devices == ()
    assert found.not_observed is not None
    assert found.not_observed.startswith("no NVIDIA driver: ")
    assert devices.sample("here") == found
    assert devices.blind_spots("here") == []
    devices.close()


class NvmlDoubleError(Exception):
    """NVML_ERROR_NOT_SUPPORTED and the like."""


class NvmlDouble:
    """A double of pynvml: answers what its tables hold, supports nothing else."""

    NVMLError = NvmlDoubleError
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksEventReasonGpuIdle = 0x1

    def __init__(self, answers: list[dict[str, Any]], xids: list[tuple[int, int]] | None) -> None:
        self.answers = answers
        self.xids = xids
        self.shut = False

    def nvmlInit(self) -> None:
        self.shut = False

    def nvmlShutdown(self) -> None:
        self.shut = True

    def nvmlDeviceGetCount(self) -> int:
        return len(self.answers)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if "lost" in self.answers[index]:
            raise NvmlDoubleError("GPU is lost")
        return index

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlEventSetCreate(self) -> str:
        if self.xids is None:
            raise NvmlDoubleError("Not Supported")
        return "events"

    def nvmlDeviceRegisterEvents(self, *_: Any) -> None:
        pass

    def nvmlEventSetFree(self, events: str) -> None:
        assert events == "events"

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> SimpleNamespace:
        assert (events, timeout_ms) == ("events", 0)
        if not self.xids:
            raise NvmlDoubleError("Timeout")
        index, number = self.xids.pop(0)
        return SimpleNamespace(device=index, eventData=number)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def ask(index: int, *_: Any) -> Any:
            if name not in self.answers[index]:
                raise NvmlDoubleError("Not Supported")
            return self.answers[index][name]

        return ask


FULL = {
    "nvmlDeviceGetUUID": b"GPU-1",
    "nvmlDeviceGetName": "H200",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=100, used=60),
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=7),
    "nvmlDeviceGetTemperature": 71,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x40,
    "nvmlDeviceGetTotalEccErrors": 2,
    "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:3B:00.0"),
    "nvmlDeviceGetComputeRunningProcesses": [
        SimpleNamespace(pid=11, usedGpuMemory=40),
        SimpleNamespace(pid=12, usedGpuMemory=None),
    ],
    "nvmlDeviceGetProcessUtilization": [
        SimpleNamespace(pid=11, smUtil=9, timeStamp=2),
        SimpleNamespace(pid=11, smUtil=1, timeStamp=1),
    ],
}


def test_all_that_a_driver_reports() -> None:
    nvml = NvmlDouble([FULL], xids=[(0, 79)])
    devices = Devices(nvml)
    wanted = Device(
        index=0,
        uuid="GPU-1",
        name="H200",
        memory_total=100,
        memory_used=60,
        utilization=7,
        temperature_c=71,
        throttle=("power cap", "thermal (hardware)"),
        ecc_uncorrected=2,
        xid=(79,),
        processes=(
            DeviceUse(pid=11, memory_bytes=40, utilization=9),
            DeviceUse(pid=12, memory_bytes=None, utilization=None),
        ),
    )
    assert devices.sample("here") == DevicesSampled(host="here", devices=(wanted,))
    assert devices.sample("here").devices[0].xid == (79,)
    devices.close()
    assert nvml.shut


def test_what_a_driver_does_not_report_is_none() -> None:
    (device,) = Devices(NvmlDouble([{}], xids=[])).sample("here").devices
    assert device == Device(index=0)


def test_a_lost_device_does_not_hide_the_others() -> None:
    found = Devices(NvmlDouble([{"lost": True}, FULL], xids=[])).sample("here")
    assert found.not_observed is None
    assert [device.name for device in found.devices] == ["not readable: GPU is lost", "H200"]


def test_xids_come_from_the_log_where_the_driver_gives_no_events(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.touch()
    devices = Devices(NvmlDouble([FULL], xids=None), str(path))
    assert devices.sample("here").devices[0].xid == ()
    with path.open("a") as file:
        file.write("4,4,400,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n")
        file.write("4,5,401,-;NVRM: Xid (PCI:0000:5e:00): 31, pid=2, another GPU's\n")
    assert devices.sample("here").devices[0].xid == (79,)
    assert devices.blind_spots("here") == []
    devices.close()


def test_xids_that_nobody_tells_are_said_to_be_missing() -> None:
    devices = Devices(NvmlDouble([FULL], xids=None), "/nonexistent/kmsg")
    devices.sample("here")
    (missing,) = devices.blind_spots("here")
    assert (missing.host, missing.what) == ("here", "xid")
    assert "the kernel log cannot be read" in missing.why


def test_a_driver_without_devices_says_so() -> None:
    found = Devices(NvmlDouble([], xids=[])).sample("here")
    assert found.not_observed == "no NVIDIA device is visible: the driver is there and lists none"
