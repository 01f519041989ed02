"""Whether the system allows reading other processes, in a sentence for people."""

from __future__ import annotations

import os
import pwd

from distwatch.probes.procfs import owner_of, read_text, status_of

_CAP_SYS_PTRACE = 19
_ADVICE = (
    "run distwatch as root, give it CAP_SYS_PTRACE (docker: --cap-add=SYS_PTRACE; Kubernetes: "
    "securityContext.capabilities.add)"
)


def ptrace_rights() -> tuple[bool, str]:
    """Whether the stacks of this user's processes can be read from outside, and why or why not."""
    return explain_rights(uid=os.geteuid(), capable=has_ptrace_capability(), scope=yama_scope())


def explain_rights(uid: int, capable: bool, scope: int | None) -> tuple[bool, str]:
    """The rule behind `ptrace_rights`. `scope` is kernel.yama.ptrace_scope, None without Yama."""
    if scope == 3:
        return False, (
            "kernel.yama.ptrace_scope is 3: no process may read another until the machine "
            "boots with a lower value"
        )
    if capable:
        return True, "CAP_SYS_PTRACE: every process of this container or machine can be read"
    if not scope:
        return True, f"processes of uid {uid} can be read, those of other users cannot"
    if scope == 1:
        return False, (
            "kernel.yama.ptrace_scope is 1: only child processes can be read; "
            f"{_ADVICE}, or set it to 0: sysctl kernel.yama.ptrace_scope=0"
        )
    return False, f"kernel.yama.ptrace_scope is {scope}: reading needs CAP_SYS_PTRACE; {_ADVICE}"


def explain_denial(pid: int) -> str:
    """Why an existing process could not be read, and what to do, as the end of a sentence."""
    if has_ptrace_capability() and yama_scope() != 3:
        return (
            "not even CAP_SYS_PTRACE reaches it from here: it is in another user namespace, or a "
            "security module protects it. Run distwatch in the container where that process runs"
        )
    owner = owner_of(pid)
    if owner is not None and owner != os.geteuid():
        me = user_name(os.geteuid())
        return (
            f"it belongs to {user_name(owner)} and distwatch runs as {me}: run distwatch as that "
            "user, or with CAP_SYS_PTRACE (as root)"
        )
    allowed, why = ptrace_rights()
    if not allowed:
        return why
    return (
        "it runs under another group or in another namespace, or forbids reading "
        "(PR_SET_DUMPABLE): run distwatch with CAP_SYS_PTRACE (as root)"
    )


def user_name(uid: int) -> str:
    """`name (uid 1000)`, or `uid 1000` where the name is not known."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def has_ptrace_capability() -> bool:
    """Whether this process has CAP_SYS_PTRACE in effect."""
    mask = status_of("/proc/self", "CapEff")
    return bool(mask and int(mask[0], 16) >> _CAP_SYS_PTRACE & 1)


def yama_scope() -> int | None:
    """The value of kernel.yama.ptrace_scope; None where the kernel has no Yama."""
    text = read_text("/proc/sys/kernel/yama/ptrace_scope").strip()
    return int(text) if text.isdigit() else None
