"""NVIDIA GPUs through NVML: memory and use per process, throttling, ECC, row remapping, NVLink, XID."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from distwatch.probes.kernel_log import KernelLog, xids
from distwatch.state.events import Device, DevicesSampled, DeviceUse, NotObserved

# Each under its newer and older name. GpuIdle and clocks that somebody set are not problems.
_THROTTLE = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal (software)",
    "HwThermalSlowdown": "thermal (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
    "SyncBoost": "sync boost",
}
_XIDS_KEPT = 16
_OUT_OF_REACH = (15, 16)
"""NVML_ERROR_GPU_IS_LOST and NVML_ERROR_RESET_REQUIRED."""
_MOST_LINKS = 36
_LINK_COUNTERS = {
    "NVML_NVLINK_ERROR_DL_RECOVERY": "recoveries",
    "NVML_NVLINK_ERROR_DL_REPLAY": "replays",
}
"""Up to NVLink 4. CRC errors are not read: each of them is a replay."""
_LINK_FIELDS = {
    "NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS": "failed recoveries",
    "NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS": "recoveries",
}
"""From NVLink 5 on, where the driver no longer answers the question for counters."""


class Devices:
    """NVML, opened at the first sample. What a driver does not report stays None.

    A driver whose device hangs can block in any call: take samples in a separate thread.
    """

    def __init__(self, nvml: Any = None, log_path: str = "/dev/kmsg") -> None:
        """`nvml`: the pynvml module; imported on first use by default."""
        self._nvml = nvml
        self._log_path = log_path
        self._log: KernelLog | None = None
        self._handles: list[Any | str] = []
        self._why_not: str | None = None
        self._opened = False
        self._events: Any = None
        self._addresses: dict[str, int] = {}
        self._xids: dict[int, list[int]] = {}
        self._first_ecc: dict[int, int] = {}
        self._first_links: dict[int, tuple[int, ...]] = {}
        self._first_link_errors: dict[tuple[int, int, str], int] = {}
        self._throttled_at: dict[int, float] = {}
        self._last: dict[int, Device] = {}
        self._lost: dict[int, str] = {}
        """Devices that were out of reach when they were opened, and why."""

    def sample(self, host: str) -> DevicesSampled:
        """All devices now, or why none are visible."""
        if not self._opened:
            self._opened = True
            self._why_not = self._open()
        if self._why_not is not None:
            return DevicesSampled(host=host, not_observed=self._why_not)
        self._collect_xids()
        devices = tuple(self._look_at(i, handle) for i, handle in enumerate(self._handles))
        return DevicesSampled(host=host, devices=devices)

    def blind_spots(self, host: str) -> list[NotObserved]:
        """What could not be seen of the sampled devices, and why."""
        if self._log is None or self._log.why_not is None:
            return []
        why = f"the driver gives no events, and {self._log.why_not}"
        return [NotObserved(host=host, what="devices: xid", why=why)]

    def close(self) -> None:
        """Closes NVML."""
        if self._log is not None:
            self._log.close()
        if self._opened and self._why_not is None:
            if self._events is not None:
                self._try("nvmlEventSetFree", self._events)
            self._try("nvmlShutdown")
        self._opened, self._events, self._log = False, None, None
        self._handles, self._addresses = [], {}

    def _open(self) -> str | None:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return "nvidia-ml-py is not installed: pip install nvidia-ml-py"
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            return f"no NVIDIA driver: {error}"
        if not count:
            return "no NVIDIA device is visible: the driver is installed but lists none"
        self._handles = [self._handle(index) for index in range(count)]
        self._watch_xids()
        return None

    def _handle(self, index: int) -> Any | str:
        """NVML's handle, or why there is none: one lost device must not hide the others."""
        try:
            return self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            # One that a container may not use is not lost.
            if getattr(error, "value", None) in _OUT_OF_REACH:
                self._lost[index] = str(error)
            return f"not readable: {error}"

    def _try(self, name: str, *arguments: Any) -> Any:
        """The driver's answer; None where the driver or this pynvml does not support the question."""
        function: Callable[..., Any] | None = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _look_at(self, index: int, handle: Any | str) -> Device:
        if isinstance(handle, str):
            lost = self._lost.get(index, "")
            return Device(index=index, name=handle, lost=lost, xid=self._xids_of(index))
        if lost := self._out_of_reach(handle):
            known = self._last.get(index, Device(index=index))
            xids = self._xids_of(index)
            return msgspec.structs.replace(known, lost=lost, utilization=None, xid=xids)
        device = self._last[index] = self._device(index, handle)
        return device

    def _out_of_reach(self, handle: Any) -> str:
        """Why the driver no longer reaches a device; '' where it does, or where it does not say."""
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError as error:
            return str(error) if getattr(error, "value", None) in _OUT_OF_REACH else ""
        return ""

    def _device(self, index: int, handle: Any) -> Device:
        nvml = self._nvml
        memory = self._try("nvmlDeviceGetMemoryInfo", handle)
        use = self._try("nvmlDeviceGetUtilizationRates", handle)
        uncorrected, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        errors = self._try("nvmlDeviceGetTotalEccErrors", handle, uncorrected, volatile)
        rows = self._try("nvmlDeviceGetRemappedRows", handle)
        throttle = self._throttle(handle)
        return Device(
            index=index,
            uuid=_text(self._try("nvmlDeviceGetUUID", handle)),
            name=_text(self._try("nvmlDeviceGetName", handle)),
            memory_total=int(memory.total) if memory else None,
            memory_used=int(memory.used) if memory else None,
            utilization=int(use.gpu) if use else None,
            temperature_c=self._try("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
            throttle=throttle,
            throttled_s=self._throttled_s(index, throttle),
            ecc_uncorrected=errors,
            # A driver counts since it was loaded: what came before belongs to another job.
            ecc_new=None if errors is None else errors - self._first_ecc.setdefault(index, errors),
            rows_pending=bool(rows[2]) if rows else None,
            rows_failed=bool(rows[3]) if rows else None,
            links_down=self._links_down(index, handle),
            link_errors=self._link_errors(index, handle),
            xid=self._xids_of(index),
            processes=self._processes(handle),
        )

    def _throttle(self, handle: Any) -> tuple[str, ...]:
        reasons = self._try("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:
            reasons = self._try("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return tuple(word for name, word in _THROTTLE.items() if (reasons or 0) & self._bit(name))

    def _throttled_s(self, index: int, throttle: tuple[str, ...]) -> float:
        now = time.monotonic()
        if not throttle:
            self._throttled_at.pop(index, None)
            return 0.0
        return now - self._throttled_at.setdefault(index, now)

    def _links_down(self, index: int, handle: Any) -> tuple[int, ...]:
        up: list[int] = []
        for link in range(_MOST_LINKS):
            state = self._try("nvmlDeviceGetNvLinkState", handle, link)
            if state is None:
                break
            if state:
                up.append(link)
        first = self._first_links.setdefault(index, tuple(up))
        return tuple(link for link in first if link not in up)

    def _link_errors(self, index: int, handle: Any) -> dict[str, int]:
        """What has been counted since the first look, for all links that were up then."""
        new: dict[str, int] = {}
        for link in self._first_links.get(index, ()):
            for word, count in self._link_counts(handle, link).items():
                grown = count - self._first_link_errors.setdefault((index, link, word), count)
                if grown > 0:
                    new[word] = new.get(word, 0) + grown
        return new

    def _link_counts(self, handle: Any, link: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, word in _LINK_COUNTERS.items():
            counter = getattr(self._nvml, name, None)
            if counter is None:
                continue
            count = self._try("nvmlDeviceGetNvLinkErrorCounter", handle, link, counter)
            if count is None:
                return self._link_fields(handle, link)
            found[word] = int(count)
        return found

    def _link_fields(self, handle: Any, link: int) -> dict[str, int]:
        fields = {getattr(self._nvml, name, None): word for name, word in _LINK_FIELDS.items()}
        fields.pop(None, None)
        asked = [(field, link) for field in fields]
        values = self._try("nvmlDeviceGetFieldValues", handle, asked) if asked else None
        return {fields[v.fieldId]: int(v.value.ullVal) for v in values or () if not v.nvmlReturn}

    def _bit(self, reason: str) -> int:
        newer = getattr(self._nvml, f"nvmlClocksEventReason{reason}", 0)
        return int(newer or getattr(self._nvml, f"nvmlClocksThrottleReason{reason}", 0))

    def _processes(self, handle: Any) -> tuple[DeviceUse, ...]:
        running = self._try("nvmlDeviceGetComputeRunningProcesses", handle) or []
        samples = self._try("nvmlDeviceGetProcessUtilization", handle, 0) or []
        newest = {s.pid: int(s.smUtil) for s in sorted(samples, key=lambda s: s.timeStamp)}
        return tuple(
            DeviceUse(
                pid=int(process.pid),
                memory_bytes=None if process.usedGpuMemory is None else int(process.usedGpuMemory),
                utilization=newest.get(process.pid),
            )
            for process in running
        )

    def _watch_xids(self) -> None:
        """By NVML's events where every device supports them, else from the kernel log."""
        readable = [handle for handle in self._handles if not isinstance(handle, str)]
        for index, handle in enumerate(self._handles):
            if not isinstance(handle, str):
                address = self._try("nvmlDeviceGetPciInfo", handle)
                self._addresses[_address(_text(getattr(address, "busId", "")))] = index
        events = self._try("nvmlEventSetCreate")
        critical = getattr(self._nvml, "nvmlEventTypeXidCriticalError", 8)
        if events is not None and len(readable) == len(self._handles):
            try:
                for handle in readable:
                    self._nvml.nvmlDeviceRegisterEvents(handle, critical, events)
                self._events = events
                return
            except self._nvml.NVMLError:
                self._try("nvmlEventSetFree", events)
        self._log = KernelLog(self._log_path)

    def _collect_xids(self) -> None:
        if self._log is not None:
            for address, number in xids(self._log.read()):
                if (index := self._addresses.get(_address(address))) is not None:
                    self._keep_xid(index, number)
            return
        for _ in range(_XIDS_KEPT):
            event = self._try("nvmlEventSetWait_v2", self._events, 0)
            index = self._try("nvmlDeviceGetIndex", event.device) if event is not None else None
            if index is None:
                return
            self._keep_xid(int(index), int(event.eventData))

    def _keep_xid(self, index: int, number: int) -> None:
        self._xids[index] = [*self._xids.get(index, []), number][-_XIDS_KEPT:]

    def _xids_of(self, index: int) -> tuple[int, ...]:
        return tuple(self._xids.get(index, ()))


def _address(text: str) -> str:
    """A PCI address without domain padding and function, for comparing both sources."""
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain, 16) if domain else 0:x}:{rest.partition('.')[0]}"


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
