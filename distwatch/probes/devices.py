"""NVIDIA GPUs through NVML: memory and use per process, throttling, ECC, XID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from distwatch.state.events import Device, DevicesSampled, DeviceUse

T = TypeVar("T")

_THROTTLE = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "thermal (software)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "thermal (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
    "nvmlClocksEventReasonSyncBoost": "sync boost",
}


class Devices:
    """NVML, opened at the first sample. Whatever a driver does not report stays None."""

    def __init__(self, nvml: Any = None) -> None:
        """`nvml`: the pynvml module, imported when it is needed by default."""
        self._nvml = nvml
        self._handles: list[Any] = []
        self._why_not: str | None = None
        self._opened = False
        self._events: Any = None
        self._xids: dict[int, list[int]] = {}

    def sample(self, host: str) -> DevicesSampled:
        """All devices now, or why there are none to see."""
        if not self._opened:
            self._opened = True
            self._why_not = self._open()
        if self._why_not is not None:
            return DevicesSampled(host=host, not_observed=self._why_not)
        self._collect_xids()
        devices = tuple(self._device(i, handle) for i, handle in enumerate(self._handles))
        return DevicesSampled(host=host, devices=devices)

    def close(self) -> None:
        """Gives NVML back."""
        if self._opened and self._why_not is None:
            self._try(self._nvml.nvmlShutdown)
        self._opened = False

    def _open(self) -> str | None:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return "nvidia-ml-py is not installed"
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except self._nvml.NVMLError as error:
            return f"no NVIDIA driver: {error}"
        self._watch_xids()
        return None

    def _try(self, function: Callable[..., T], *args: Any) -> T | None:
        """The driver's answer; None where it does not support the question."""
        try:
            return function(*args)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def _device(self, index: int, handle: Any) -> Device:
        nvml = self._nvml
        memory = self._try(nvml.nvmlDeviceGetMemoryInfo, handle)
        use = self._try(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Device(
            index=index,
            uuid=_text(self._try(nvml.nvmlDeviceGetUUID, handle)),
            name=_text(self._try(nvml.nvmlDeviceGetName, handle)),
            memory_total=int(memory.total) if memory else None,
            memory_used=int(memory.used) if memory else None,
            utilization=int(use.gpu) if use else None,
            temperature_c=self._try(
                nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
            ),
            throttle=self._throttle(handle),
            ecc_uncorrected=self._try(
                nvml.nvmlDeviceGetTotalEccErrors,
                handle,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
            xid=tuple(self._xids.get(index, ())),
            processes=self._processes(handle),
        )

    def _throttle(self, handle: Any) -> tuple[str, ...]:
        query = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            self._nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        reasons = self._try(query, handle) if query else None
        if not reasons:
            return ()
        return tuple(
            word for name, word in _THROTTLE.items() if reasons & int(getattr(self._nvml, name, 0))
        )

    def _processes(self, handle: Any) -> tuple[DeviceUse, ...]:
        nvml = self._nvml
        running = self._try(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        samples = self._try(nvml.nvmlDeviceGetProcessUtilization, handle, 0) or []
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
        nvml = self._nvml
        events = self._try(nvml.nvmlEventSetCreate)
        if events is None:
            return
        for handle in self._handles:
            self._try(
                nvml.nvmlDeviceRegisterEvents, handle, nvml.nvmlEventTypeXidCriticalError, events
            )
        self._events = events

    def _collect_xids(self) -> None:
        for _ in range(16):
            event = (
                self._try(self._nvml.nvmlEventSetWait_v2, self._events, 0) if self._events else None
            )
            if event is None:
                return
            index = self._try(self._nvml.nvmlDeviceGetIndex, event.device)
            if index is not None:
                self._xids.setdefault(int(index), []).append(int(event.eventData))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
