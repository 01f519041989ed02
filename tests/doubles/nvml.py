"""A double of pynvml: no machine of the tests has a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NvmlDoubleError(Exception):
    """NVML_ERROR_NOT_SUPPORTED and the like; `value` is NVML's number of it."""

    def __init__(self, text: str, value: int = 3) -> None:
        super().__init__(text)
        self.value = value


class NvmlDouble:
    """A double of pynvml: answers what its tables hold, supports nothing else.

    A device with `lost` was gone before it was opened, one with `fallen` is gone now, and one with `denied`
    belongs to another container.
    """

    NVMLError = NvmlDoubleError
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_NVLINK_ERROR_DL_REPLAY = 0
    NVML_NVLINK_ERROR_DL_RECOVERY = 1
    NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS = 213
    NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS = 214
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
            raise NvmlDoubleError("GPU is lost", 15)
        if "denied" in self.answers[index]:
            raise NvmlDoubleError("Insufficient Permissions", 4)
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

        def ask(index: int, *rest: Any) -> Any:
            if "fallen" in self.answers[index]:
                raise NvmlDoubleError("GPU is lost", 15)
            if name not in self.answers[index]:
                raise NvmlDoubleError("Not Supported")
            answer = self.answers[index][name]
            if name == "nvmlDeviceGetFieldValues":
                return [_field(*asked, answer) for asked in rest[0]]
            if name == "nvmlDeviceGetNvLinkErrorCounter":
                return answer[rest]
            if name != "nvmlDeviceGetNvLinkState":
                return answer
            if rest[0] >= len(answer):
                raise NvmlDoubleError("Invalid Argument", 2)
            return answer[rest[0]]

        return ask


def _field(field: int, link: int, answers: dict[tuple[int, int], int]) -> SimpleNamespace:
    """A value as NVML has it; each field has an error of its own."""
    known = (field, link) in answers
    value = SimpleNamespace(ullVal=answers.get((field, link), 0))
    return SimpleNamespace(fieldId=field, scopeId=link, nvmlReturn=0 if known else 3, value=value)


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
