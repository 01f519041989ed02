"""What is wrong with a rank's device, by what its driver reports, and what slows it down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.xids import Fault, xid_of
from distwatch.state.events import Device
from distwatch.state.finding import Evidence

WORST: tuple[Fault, ...] = ("lost", "memory", "device", "program")
_RESET = "Reset the device; if it comes again, take it out of service."
_SLOWED = frozenset(
    ("hardware slowdown", "thermal (software)", "thermal (hardware)", "power brake")
)
"""A power cap and boost clocks belong to full load."""
SLOWED_FOR_S = 30.0


class DeviceFault(NamedTuple):
    """One thing that a driver reports. `what` completes "the driver reports …"."""

    fault: Fault
    what: str
    advice: str
    is_new: bool = True
    """Whether it happened while somebody watched: what is older may belong to another job."""


def worst_fault(device: Device) -> DeviceFault | None:
    """The worst of what happened to a device, and of that the newest kind of evidence."""
    order = {fault: place for place, fault in enumerate(WORST)}
    return min(faults_of(device), key=lambda one: (not one.is_new, order[one.fault]), default=None)


def faults_of(device: Device) -> Iterable[DeviceFault]:
    """Everything that is reported of a device and may end work on it."""
    for number in device.xid:
        said = xid_of(number)
        if said.fault in WORST:
            yield DeviceFault(said.fault, f"Xid {number} ({said.meaning})", _xid_advice(number))
    if device.lost:
        yield DeviceFault(
            "lost", f"that it cannot be reached any more ({device.lost})", _xid_advice(79)
        )
    if device.ecc_new:
        more = "error" if device.ecc_new == 1 else "errors"
        yield DeviceFault("memory", f"{device.ecc_new} new uncorrected ECC {more}", _RESET)
    if device.links_down:
        listed = ", ".join(map(str, device.links_down))
        yield DeviceFault("device", f"that NVLink {listed} went down", _xid_advice(74))
    if device.rows_failed:
        yield DeviceFault(
            "memory", "a memory row that cannot be replaced", _xid_advice(64), is_new=False
        )
    if device.rows_pending:
        what = "memory rows that wait for a reset to be replaced"
        yield DeviceFault("memory", what, "Reset the device when it is idle.", is_new=False)


def _xid_advice(number: int) -> str:
    """What to do at such an Xid, as a sentence."""
    action = xid_of(number).action
    return f"{action[:1].upper()}{action[1:]}."


def device_of(job: Job, global_rank: int) -> Device | None:
    """The device that a rank computes on; None where it is not known, or where there are several."""
    process = job.ranks.get(global_rank)
    host = job.state.hosts.get(process.host) if process is not None else None
    if process is None or host is None or host.devices is None:
        return None
    used = [d for d in host.devices.devices if any(use.pid == process.pid for use in d.processes)]
    return used[0] if len(used) == 1 else None


def title_of(device: Device) -> str:
    """`H200 2`: its name and number."""
    name = device.name or "device"
    return name if name.startswith("GPU ") else f"{name} {device.index}"


def slowed_by(job: Job, global_rank: int) -> str:
    """What slows a rank's device down and not its peers': heat or power; '' where nothing does."""
    device = device_of(job, global_rank)
    own = _slowed(device)
    if device is None or not own or device.throttled_s < SLOWED_FOR_S:
        return ""
    others = [other for rank in job.ranks if rank != global_rank if (other := device_of(job, rank))]
    if not others or any(_slowed(other) for other in others):
        return ""
    heat = f", {device.temperature_c} °C" if device.temperature_c is not None else ""
    return f"{', '.join(own)}{heat}"


def device_evidence(job: Job, global_rank: int) -> Iterable[Evidence]:
    """How busy a rank's device is, and what slows it down, as far as its driver says that."""
    device = device_of(job, global_rank)
    if device is None or device.utilization is None:
        return
    slowed = f"; slowed down by {why}" if (why := slowed_by(job, global_rank)) else ""
    text = f"its device, {title_of(device)}, is {device.utilization} % busy{slowed}"
    yield Evidence("proc", f"rank {global_rank}: {text}", global_rank)


def _slowed(device: Device | None) -> list[str]:
    return [word for word in device.throttle if word in _SLOWED] if device is not None else []
