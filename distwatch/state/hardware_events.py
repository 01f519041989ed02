"""What is seen of devices, network ports and NCCL's communicators: written by an observer."""

from __future__ import annotations

import msgspec

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
    ecc_uncorrected: int | None = None
    xid: tuple[int, ...] = ()
    processes: tuple[DeviceUse, ...] = ()


class DevicesSampled(Event, frozen=True, kw_only=True):
    is_routine = True

    host: str
    devices: tuple[Device, ...] = ()
    not_observed: str | None = None


class PortErrorSeen(Event, frozen=True, kw_only=True):
    """A port (`mlx5_2:1`) of the network between the ranks failed, by a driver's or a process's word.

    It does not decide where the end of the process on the other side looks the same from here.
    """

    host: str
    port: str = ""
    text: str = ""
    process: str | None = None
    decides: bool = True


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
