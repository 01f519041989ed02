"""NVML without a driver for real, and with devices through a double of pynvml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.probes.devices import Devices
from distwatch.state.events import Device, DevicesSampled, DeviceUse
from tests.doubles.nvml import FULL, NvmlDouble


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
        ecc_new=0,
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
    assert [device.lost for device in found.devices] == ["GPU is lost", ""]


def test_a_device_of_another_container_is_not_lost() -> None:
    found = Devices(NvmlDouble([{"denied": True}, FULL], xids=[])).sample("here")
    assert [device.lost for device in found.devices] == ["", ""]


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
    assert (missing.host, missing.what) == ("here", "devices: xid")
    assert "the kernel log cannot be read" in missing.why


def test_a_driver_without_devices_says_so() -> None:
    found = Devices(NvmlDouble([], xids=[])).sample("here")
    assert (
        found.not_observed == "no NVIDIA device is visible: the driver is installed but lists none"
    )


def test_only_errors_that_come_while_it_is_watched_are_new() -> None:
    answers = dict(FULL)
    devices = Devices(NvmlDouble([answers], xids=[]))
    assert devices.sample("here").devices[0].ecc_new == 0
    answers["nvmlDeviceGetTotalEccErrors"] = 5
    (device,) = devices.sample("here").devices
    assert (device.ecc_uncorrected, device.ecc_new) == (5, 3)


def test_a_device_that_falls_off_the_bus_keeps_its_name_and_its_processes() -> None:
    answers: dict[str, object] = dict(FULL)
    devices = Devices(NvmlDouble([answers], xids=[]))
    assert devices.sample("here").devices[0].lost == ""
    answers["fallen"] = True
    (device,) = devices.sample("here").devices
    assert device.lost == "GPU is lost"
    assert (device.name, [use.pid for use in device.processes]) == ("H200", [11, 12])
    assert device.utilization is None


def test_rows_to_remap_are_told_where_the_driver_counts_them() -> None:
    answers = {**FULL, "nvmlDeviceGetRemappedRows": (0, 1, 1, 0)}
    (device,) = Devices(NvmlDouble([answers], xids=[])).sample("here").devices
    assert (device.rows_pending, device.rows_failed) == (True, False)
    (silent,) = Devices(NvmlDouble([FULL], xids=[])).sample("here").devices
    assert (silent.rows_pending, silent.rows_failed) == (None, None)


def test_a_link_that_was_never_up_is_not_down() -> None:
    answers = {**FULL, "nvmlDeviceGetNvLinkState": [1, 0, 1]}
    devices = Devices(NvmlDouble([answers], xids=[]))
    assert devices.sample("here").devices[0].links_down == ()
    answers["nvmlDeviceGetNvLinkState"] = [1, 0, 0]
    assert devices.sample("here").devices[0].links_down == (2,)


REPLAY, RECOVERY = 0, 1


def test_errors_of_links_are_counted_from_the_first_look() -> None:
    counters = {(0, REPLAY): 500, (0, RECOVERY): 2, (1, REPLAY): 0, (1, RECOVERY): 0}
    answers = {
        **FULL,
        "nvmlDeviceGetNvLinkState": [1, 1],
        "nvmlDeviceGetNvLinkErrorCounter": counters,
    }
    devices = Devices(NvmlDouble([answers], xids=[]))
    assert devices.sample("here").devices[0].link_errors == {}
    counters[0, REPLAY], counters[1, RECOVERY] = 507, 1
    assert devices.sample("here").devices[0].link_errors == {"replays": 7, "recoveries": 1}
    counters[0, REPLAY] = 3  # somebody has reset it: not a negative number, and not an error
    assert devices.sample("here").devices[0].link_errors == {"recoveries": 1}


def test_links_whose_driver_counts_by_fields_are_read_too() -> None:
    fields = {(213, 0): 4, (214, 0): 0}  # link 1 has no such fields
    answers = {
        **FULL, "nvmlDeviceGetNvLinkState": [1, 1], "nvmlDeviceGetFieldValues": fields,
    }  # fmt: skip
    devices = Devices(NvmlDouble([answers], xids=[]))
    assert devices.sample("here").devices[0].link_errors == {}
    fields[214, 0] = 1
    assert devices.sample("here").devices[0].link_errors == {"failed recoveries": 1}


def test_a_driver_that_counts_no_errors_of_links_says_nothing() -> None:
    devices = Devices(NvmlDouble([{**FULL, "nvmlDeviceGetNvLinkState": [1]}], xids=[]))
    assert [devices.sample("here").devices[0].link_errors for _ in range(2)] == [{}, {}]


def test_throttling_is_timed_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = dict(FULL)
    devices, now = Devices(NvmlDouble([answers], xids=[])), [100.0]
    monkeypatch.setattr("distwatch.probes.devices.time.monotonic", lambda: now[0])
    assert devices.sample("here").devices[0].throttled_s == 0.0
    now[0] = 140.0
    assert devices.sample("here").devices[0].throttled_s == 40.0
    answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x1
    assert devices.sample("here").devices[0].throttled_s == 0.0
