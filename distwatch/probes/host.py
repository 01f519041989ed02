"""The machine: memory, cgroup limits, load."""

from __future__ import annotations

import os

import psutil

from distwatch.probes.cgroups import memory_group
from distwatch.state.events import HostSampled


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
