"""Lets this node's observer read our stack where Yama allows it only to parents.

Under `kernel.yama.ptrace_scope=1` (Debian's and Ubuntu's default) a process may name one
other process that may trace it; this includes that process's children, such as py-spy.
"""

from __future__ import annotations

import ctypes

_PR_SET_PTRACER = 0x59616D61


def yama_asks_for_consent() -> bool:
    """Whether the kernel requires each process to name the process that may trace it."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def allow_tracing_by(pid: int) -> None:
    """Names `pid` as the one process that may trace this one; each call replaces the last."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)
