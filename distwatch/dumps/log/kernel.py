"""The kernel's messages: memory killer, NVIDIA's driver, InfiniBand ports."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distwatch.dumps.log.facts import DriverReported, Fact, KernelKilled, LinkFailed, Who

_KILLED = re.compile(r"Killed process (\d{1,10})(?:,)? \(([^)]*)\)")
_OOM_KILL = re.compile(r"oom-kill:.*?task=([^,]*),pid=(\d{1,10})")
_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)\): (?P<xid>\d{1,4})(?:, pid='?(?P<pid>\d{1,10}))?(?P<rest>.*)"
)
_OFF_BUS = re.compile(
    r"NVRM: .*?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}).*fallen off the bus"
)
_PORT = re.compile(
    r"(?:mlx5_core|bnxt_en|bnxt_re|irdma|hfi1|mlx4_core|mlx5_\w+)\b.*?(?:"
    r"Link [Dd]own|link is down|Cable error|Port module event\[error\]|port error|Lost carrier|NIC Link is Down"
    r"|health (?:compromised|poll failed)|assert_var|command timeout|cmd.*timeout)"
)
_PORT_NAME = re.compile(r"(mlx[45]_core|bnxt_\w+|irdma|hfi1) ([0-9a-fA-F:.]+)(?:[: ]+(\w+))?")
_FALLEN_OFF = 79


def bus_label(address: str) -> str:
    """A PCI address as NCCL writes it: `0000:b3:00` is `bus:b3000`."""
    parts = address.partition(".")[0].split(":")
    try:
        domain, bus, device = (int(part, 16) for part in ["0", *parts][-3:])
    except ValueError:
        return f"bus:{address}"
    return f"bus:{domain << 20 | bus << 12 | device << 4:x}"


def kernel_said(text: str, time_ns: int, who: Who) -> Iterator[Fact]:
    """The facts of one kernel message; `who` says at most which host it is of."""
    if killed := _KILLED.search(text):
        yield KernelKilled(
            who=who, time_ns=time_ns, pid=int(killed[1]), command=killed[2], text=text.strip()[:300]
        )
    elif oom := _OOM_KILL.search(text):
        yield KernelKilled(
            who=who, time_ns=time_ns, pid=int(oom[2]), command=oom[1], text=text.strip()[:300]
        )
    if xid := _XID.search(text):
        yield DriverReported(
            who=who,
            time_ns=time_ns,
            bus=xid["bus"],
            xid=int(xid["xid"]),
            pid=int(xid["pid"]) if xid["pid"] else None,
            text=text[xid.start() :].strip()[:300],
        )
    elif off := _OFF_BUS.search(text):
        yield DriverReported(
            who=who, time_ns=time_ns, bus=off["bus"], xid=_FALLEN_OFF, text=text.strip()[:300]
        )
    if port := _PORT.search(text):
        named = _PORT_NAME.search(text)
        device = " ".join(part for part in (named[2], named[3]) if part) if named else ""
        yield LinkFailed(
            who=who, time_ns=time_ns, device=device, text=text[port.start() :].strip()[:300]
        )
