"""Whether the system lets us look into other processes, in a sentence for people."""

from __future__ import annotations

import os

from distwatch.probes.procfs import read_text

_CAP_SYS_PTRACE = 19
_ADVICE = (
    "run distwatch as root, give it CAP_SYS_PTRACE (docker: --cap-add=SYS_PTRACE; Kubernetes: "
    "securityContext.capabilities.add)"
)


def ptrace_rights() -> tuple[bool, str]:
    """Whether stacks of this user's processes can be read from outside, and why or why not."""
    return explain_rights(uid=os.geteuid(), capable=has_ptrace_capability(), scope=yama_scope())


def explain_rights(uid: int, capable: bool, scope: int | None) -> tuple[bool, str]:
    """The rule behind `ptrace_rights`. `scope` is kernel.yama.ptrace_scope, None without Yama."""
    if scope == 3:
        return False, (
            "kernel.yama.ptrace_scope is 3: nobody may read another process until the machine "
            "is booted with a lower value"
        )
    if capable:
        return True, "CAP_SYS_PTRACE: every process of this container or machine can be read"
    if not scope:
        return True, f"processes of uid {uid} can be read, other users' cannot"
    if scope == 1:
        return False, (
            "kernel.yama.ptrace_scope is 1: only child processes can be read; "
            f"{_ADVICE}, or set it to 0: sysctl kernel.yama.ptrace_scope=0"
        )
    return False, f"kernel.yama.ptrace_scope is {scope}: reading takes CAP_SYS_PTRACE; {_ADVICE}"


def has_ptrace_capability() -> bool:
    """Whether this process has CAP_SYS_PTRACE in effect."""
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_PTRACE & 1)
    return False


def yama_scope() -> int | None:
    """The value of kernel.yama.ptrace_scope; None where the kernel has no Yama."""
    text = read_text("/proc/sys/kernel/yama/ptrace_scope").strip()
    return int(text) if text.isdigit() else None
