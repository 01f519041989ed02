"""What is seen of a host's devices and network ports: written by an observer."""

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
