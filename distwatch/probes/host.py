"""The machine: memory, cgroup limits, load."""

from __future__ import annotations

import os

import psutil

from distwatch.probes.cgroups import memory_group
from distwatch.state.events import HostSampled

SHM = "/dev/shm"


def shared_memory(path: str = SHM) -> tuple[int, int] | None:
    """The size of /dev/shm and what is free of it, in bytes; None where there is none, or no tmpfs."""
    try:
        size = os.statvfs(path)
    except OSError:
        return None
    total = size.f_blocks * size.f_frsize
    return (total, size.f_bavail * size.f_frsize) if total else None


def sample_host(host: str, pid: int | None = None) -> HostSampled:
    """Memory and load of this machine, and the memory cgroup of `pid` (default: this process).

    The cgroup limit is the one with the least room, of the cgroup itself or of one above it.
    """
    memory = psutil.virtual_memory()
    group = memory_group(pid or os.getpid())
    limit, used = group.limit if group else (None, None)
    return HostSampled(
        host=host,
        memory_total=memory.total,
        memory_available=memory.available,
        cgroup_limit=limit,
        cgroup_used=used,
        oom_kills=group.oom_kills if group else None,
        # The CPUs that this process may use: a scheduler often gives a job fewer than the machine has.
        cpus=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
    )
