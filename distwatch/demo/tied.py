"""Runs a command that ends with its parent: `python -m distwatch.demo.tied COMMAND…`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to_parent(sign: int) -> None:
    """Has the kernel send `sign` to this process when its parent ends; survives an exec. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sign, 0, 0, 0)


if __name__ == "__main__":
    tie_to_parent(signal.SIGTERM)
    os.execv(sys.argv[1], sys.argv[1:])
