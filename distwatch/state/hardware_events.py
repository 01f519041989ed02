"""What is seen of devices, network ports and NCCL's communicators: written by an observer."""

from __future__ import annotations

import msgspec

from distwatch.state.bounds import Finite
from distwatch.state.event import Event


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    pid: int
    memory_bytes: int | None = None
    utilization: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One accelerator. None: its driver does not report it."""

    index: int
    uuid: str = ""
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()
    throttled_s: Finite = 0.0
    """For how long each look has seen it throttled."""
    ecc_uncorrected: int | None = None
    ecc_new: int | None = None
    """How many of them have come since the observer first looked."""
    rows_pending: bool | None = None
    """Whether memory rows wait for a reset to be replaced."""
    rows_failed: bool | None = None
    """Whether a row could not be replaced."""
    links_down: tuple[int, ...] = ()
    """NVLinks that were up when the observer first looked, and are not any more."""
    link_errors: dict[str, int] = {}
    """By NVML's word, what went wrong on its NVLinks since the first look; without a word: 0 or not known."""
    lost: str = ""
    """Why the driver no longer reaches it; the rest is what was seen last."""
    xid: tuple[int, ...] = ()
    processes: tuple[DeviceUse, ...] = ()


class DevicesSampled(Event, frozen=True, kw_only=True):
    is_routine = True

    host: str
    devices: tuple[Device, ...] = ()
    not_observed: str | None = None


class Port(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A port of an RDMA device."""

    name: str
    """`mlx5_2:1`"""
    state: str = ""
    """The kernel's words: `ACTIVE, LinkUp`; empty where it does not say them."""
    was_up: bool = False
    """Whether it was active when the observer first looked: a port without a cable never is."""
    grown: dict[str, int] = {}
    """Error counters that have grown since the observer first looked, and by how much."""


class PortsSampled(Event, frozen=True, kw_only=True):
    """The RDMA ports of a host; none where it has none."""

    is_routine = True

    host: str
    ports: tuple[Port, ...] = ()


class PortErrorSeen(Event, frozen=True, kw_only=True):
    """A port (`mlx5_2:1`) of the network between the ranks failed, by a driver's or a process's word.

    It does not decide where the end of the process on the other side looks the same from here.
    """

    host: str
    port: str = ""
    text: str = ""
    process: str | None = None
    decides: bool = True


RAS = "NCCL's RAS"
"""The service that counts for the processes of a job what each has launched."""


class Communicator(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many operations the ranks of one NCCL communicator have launched, by NCCL's own count."""

    name: str
    size: int
    processes: tuple[int, ...] = ()
    """By rank in it: an index into the answer's processes; -1, or beyond its end: the answer does not say."""
    launched: int = -1
    """What most ranks have launched; -1: nothing is known of them."""
    others: dict[int, int] = {}
    """What the other ranks have launched, by their rank in it."""
    silent: tuple[int, ...] = ()
    """Its ranks that gave no count."""
    op: str = ""
    """The operation whose counts differ, where it is only one."""
    still_since_ns: int = 0
    """Since when its counts are the same, in each of the observer's looks."""

    def count(self, rank: int) -> int | None:
        """What a rank of it has launched; None where that is not known."""
        if rank in self.silent:
            return None
        count = self.others.get(rank, self.launched)
        return None if count < 0 else count


class CommunicatorsSeen(Event, frozen=True, kw_only=True):
    """An answer of NCCL's RAS service, which one process of a job gives for all of its processes."""

    is_routine = True

    host: str
    """The host of the observer that asked."""
    processes: tuple[tuple[str, int], ...] = ()
    """Host (as NCCL names it, mostly an address) and pid."""
    dead: tuple[int, ...] = ()
    """Indices of the processes that RAS no longer reaches."""
    communicators: tuple[Communicator, ...] = ()


class SharedMemorySampled(Event, frozen=True, kw_only=True):
    """A host's /dev/shm, while little of it is free: who writes beyond its end gets SIGBUS."""

    is_routine = True

    host: str
    total: int
    free: int
    least_free: int
    """Within the last minute: what filled it may be gone with its process."""
