"""How a process ended: a pidfd for the moment, the zombie or the pidfd for the status."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct

from distwatch.probes.cgroups import MemoryGroup, memory_group
from distwatch.probes.kernel_log import KernelLog, killed_for_memory, pids_are_global
from distwatch.probes.procfs import may_trace, stat_fields
from distwatch.runfolder import start_ticks
from distwatch.state.events import ExitSeen

# struct pidfd_info of <linux/pidfd.h>, its first version: mask, cgroup id, 3 pids, 8 ids, status.
_INFO = struct.Struct("=QQ3I8Ii")
_PIDFD_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_CORE_DUMPED = 0x80

# How many OOM kills of a cgroup are already attributed to one of our processes.
_attributed: dict[str, int] = {}


class ExitWatch:
    """Watches one process, not necessarily a child. `fileno` becomes readable when it ends."""

    def __init__(self, key: str, pid: int, ticks: int, log_path: str = "/dev/kmsg") -> None:
        """Starts watching.

        Raises:
            ProcessLookupError: the process is gone, or another process has its pid now.
            OSError: the kernel has no pidfd (Linux < 5.3), or a sandbox forbids it.
        """
        self.key = key
        self.pid = pid
        self.ticks = ticks
        self._descriptor = os.pidfd_open(pid)
        # The pid may have been reused since the record was written.
        if start_ticks(pid) != ticks:
            os.close(self._descriptor)
            raise ProcessLookupError(f"pid {pid} is no longer the process that was recorded")
        self._group: MemoryGroup | None = memory_group(pid)
        self._oom_kills = self._group.oom_kills if self._group else None
        self._log = KernelLog(log_path)

    def fileno(self) -> int:
        """The pidfd: readable once the process has ended."""
        return self._descriptor

    def has_ended(self) -> bool:
        """Whether it has ended, without waiting."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        return bool(poller.poll(0))

    def collect(self) -> ExitSeen:
        """How it ended; call once `fileno` is readable."""
        status, how = self._zombie_status(), "status of the zombie"
        if status is None:
            status, how = self._pidfd_status(), "pidfd"
        if status is None:
            return ExitSeen(process=self.key, how=self._why_unknown())
        if number := status & 0x7F:
            how += ", core dumped" if status & _CORE_DUMPED else ""
            oom = self._oom_killed() if number == signal.SIGKILL else None
            return ExitSeen(process=self.key, signal=number, how=how, oom_killed=oom)
        return ExitSeen(process=self.key, exit_code=status >> 8 & 0xFF, how=how)

    def close(self) -> None:
        """Closes the descriptors."""
        self._log.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _zombie_status(self) -> int | None:
        """The status of a process that its parent has not waited for yet."""
        fields = stat_fields(self.pid)
        if fields is None or fields[0] not in "ZX" or int(fields[19]) != self.ticks:
            return None
        status = int(fields[49]) if len(fields) > 49 else 0
        # For those who may not look, the kernel shows 0, as if the process had ended well.
        return status if status or may_trace(self.pid) else None

    def _pidfd_status(self) -> int | None:
        """Linux ≥ 6.15 keeps the status in the pidfd after the parent has collected it."""
        request = bytearray(_INFO.size)
        struct.pack_into("=Q", request, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self._descriptor, _PIDFD_GET_INFO, request)
        except OSError:
            return None
        mask, *_, status = _INFO.unpack(request)
        return int(status) if mask & _PIDFD_INFO_EXIT else None

    def _why_unknown(self) -> str:
        fields = stat_fields(self.pid)
        if fields is not None and int(fields[19]) == self.ticks:
            return "ended; only its own user may read its status, until its parent collects it"
        return "ended; its parent collected the status, and Linux before 6.15 keeps no copy"

    def _oom_killed(self) -> str | None:
        """The kernel's or cgroup's report of an OOM kill of this process, if there is one."""
        killed = killed_for_memory(self._log.read())
        group, before = self._group, self._oom_kills
        now = group.oom_kills if group else None
        ours = killed.get(self.pid) if pids_are_global() else None
        if ours is None and killed and pids_are_global():
            return None  # the kernel lists its kills, and this process is not among them
        if group is None or before is None or now is None:
            return ours
        # One kill explains one process: the launcher also ends others with SIGKILL.
        floor = max(before, _attributed.get(group.path, 0))
        if ours is None and now <= floor:
            return None
        _attributed[group.path] = min(now, floor + 1)
        return ours or (
            f"{os.path.basename(group.files['events'])} of its cgroup: oom_kill {floor} → {now}"
        )
