"""The kernel log since listening began: OOM kills and NVIDIA's XID errors."""

from __future__ import annotations

import contextlib
import os
import re

_RECORD = re.compile(r"(\d+),\d+,\d+,[^;]*;(.*)")
_KILLED = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory|oom-kill).*?[Kk]illed process (\d+)"
)
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_KEPT = 256


class KernelLog:
    """A cursor in the kernel log. `why_not` says why the log cannot be read, else it is None."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.why_not: str | None = None
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            self.why_not = f"the kernel log cannot be read ({error.strerror}): run as root"
            self.close()

    def read(self) -> list[str]:
        """The kernel's own messages since the last call, the newest 256 of them.

        Messages that programs wrote into the log are left out: they are not the kernel's.
        """
        found: list[str] = []
        while self._descriptor >= 0:
            try:
                chunk = os.read(self._descriptor, 8192)
            except BrokenPipeError:
                continue  # records were overwritten before this read; the next read continues
            except OSError:
                break
            if not chunk:
                break
            for line in chunk.decode("utf-8", "replace").splitlines():
                match = _RECORD.match(line)
                # The facility is above the three bits of the level: 0 is the kernel.
                if match and int(match[1]) >> 3 == 0:
                    found.append(match[2])
        return found[-_KEPT:]

    def close(self) -> None:
        """Closes the descriptor."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def killed_for_memory(messages: list[str]) -> dict[int, str]:
    """Pids that the OOM killer killed, with the kernel's message."""
    return {int(match[1]): text for text in messages if (match := _KILLED.search(text))}


def xids(messages: list[str]) -> list[tuple[str, int]]:
    """PCI address and number of each XID error."""
    return [(match[1], int(match[2])) for text in messages if (match := _XID.search(text))]


def pids_are_global() -> bool:
    """Whether the kernel's pids are valid here: not inside a container's pid namespace."""
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
