"""What the numbers mean that NVIDIA's driver reports, and whose fault each mostly is.

From the driver's own list of names; the actions follow NVIDIA's catalogue of Xid errors.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Fault = Literal["lost", "memory", "device", "program", "consequence", "notice"]
"""`program`: mostly a kernel of the program's own. `consequence`: another event came first.
`notice`: work goes on."""


class Xid(NamedTuple):
    meaning: str
    fault: Fault
    action: str


_RESET = "reset the device; if it comes again, take it out of service"
_PROGRAM = "run that rank under compute-sanitizer; if several programs see it on one device, test the device"
_NVLINK = "reset all devices of that host that are linked; check bridges and cables"
XIDS = {
    13: Xid("graphics engine exception", "program", _PROGRAM),
    31: Xid("memory page fault", "program", _PROGRAM),
    32: Xid("invalid push buffer", "device", _RESET),
    43: Xid("a channel was reset after a software fault", "program", _PROGRAM),
    45: Xid("channels were removed", "consequence", ""),
    48: Xid("double-bit ECC error", "memory", _RESET),
    61: Xid("internal microcontroller breakpoint", "device", _RESET),
    62: Xid("internal microcontroller halt", "device", _RESET),
    63: Xid(
        "a row remapping or page retirement was recorded", "notice", "reset the device when idle"
    ),
    64: Xid(
        "a row remapping or page retirement failed", "memory", "take the device out of service"
    ),
    74: Xid("NVLink error", "device", _NVLINK),
    79: Xid(
        "the GPU has fallen off the bus",
        "lost",
        "take that host out of service and reboot it; look at power, cooling and the PCIe slot",
    ),
    92: Xid("high rate of single-bit ECC errors", "notice", "watch that device"),
    94: Xid("contained ECC error", "memory", "restart the job; only this process is affected"),
    95: Xid("uncontained ECC error", "memory", _RESET),
    109: Xid("context switch timeout", "device", _RESET),
    119: Xid("the GPU's system processor does not answer", "device", _RESET),
    120: Xid("the GPU's system processor failed", "device", _RESET),
    121: Xid("C2C link error", "notice", "watch that device"),
    137: Xid(
        "NVLink fault, seen as a fault of a peer", "device", "look at the peer's device first"
    ),
    140: Xid("unrecovered ECC error", "memory", _RESET),
    143: Xid("the GPU could not be initialized", "device", _RESET),
    154: Xid("the driver's recovery action changed", "notice", "do what that line says"),
    **{
        number: Xid("NVLink 5 error", "device", _NVLINK)
        for number in (144, 145, 146, 147, 148, 149, 150)
    },
}


def xid_of(number: int) -> Xid:
    """Its row; one that says only that it is not known here, for any other number."""
    known = XIDS.get(number)
    return known or Xid("see NVIDIA's list of Xid errors", "device", "look up that number")
