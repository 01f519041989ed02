"""The system calls that a process may be in, by number, and what each is about."""

from __future__ import annotations

import platform
from typing import NamedTuple

from distwatch.probes.procfs import read_text

_X86_64 = {
    0: "read", 1: "write", 2: "open", 4: "stat", 6: "lstat", 7: "poll", 9: "mmap", 11: "munmap",
    16: "ioctl", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select",
    26: "msync", 28: "madvise", 34: "pause", 35: "nanosleep", 40: "sendfile", 42: "connect",
    43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 56: "clone",
    57: "fork", 58: "vfork", 59: "execve", 60: "exit", 61: "wait4", 65: "semop", 72: "fcntl",
    73: "flock", 74: "fsync", 75: "fdatasync", 78: "getdents", 82: "rename", 83: "mkdir",
    87: "unlink", 89: "readlink", 128: "rt_sigtimedwait", 130: "rt_sigsuspend", 137: "statfs",
    162: "sync", 187: "readahead", 202: "futex", 208: "io_getevents", 217: "getdents64",
    219: "restart_syscall", 220: "semtimedop", 230: "clock_nanosleep", 231: "exit_group",
    232: "epoll_wait", 247: "waitid", 257: "openat", 262: "newfstatat", 267: "readlinkat",
    270: "pselect6", 271: "ppoll", 275: "splice", 277: "sync_file_range", 281: "epoll_pwait",
    285: "fallocate", 288: "accept4", 295: "preadv", 296: "pwritev", 299: "recvmmsg",
    306: "syncfs", 326: "copy_file_range", 327: "preadv2", 328: "pwritev2", 332: "statx",
    333: "io_pgetevents", 426: "io_uring_enter", 435: "clone3", 437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
_AARCH64 = {
    4: "io_getevents", 22: "epoll_pwait", 25: "fcntl", 29: "ioctl", 32: "flock", 34: "mkdirat",
    47: "fallocate", 56: "openat", 61: "getdents64", 63: "read", 64: "write", 65: "readv",
    66: "writev", 67: "pread64", 68: "pwrite64", 69: "preadv", 70: "pwritev", 71: "sendfile",
    72: "pselect6", 73: "ppoll", 76: "splice", 78: "readlinkat", 79: "newfstatat", 81: "sync",
    82: "fsync", 83: "fdatasync", 93: "exit", 94: "exit_group", 95: "waitid", 98: "futex",
    101: "nanosleep", 115: "clock_nanosleep", 128: "restart_syscall", 133: "rt_sigsuspend",
    137: "rt_sigtimedwait", 193: "semop", 202: "accept", 203: "connect", 206: "sendto",
    207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 213: "readahead", 215: "munmap",
    220: "clone", 221: "execve", 222: "mmap", 227: "msync", 233: "madvise", 242: "accept4",
    243: "recvmmsg", 260: "wait4", 267: "syncfs", 285: "copy_file_range", 286: "preadv2",
    287: "pwritev2", 291: "statx", 426: "io_uring_enter", 435: "clone3", 437: "openat2",
    441: "epoll_pwait2", 449: "futex_waitv",
}  # fmt: skip
_NAMES = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})

ON_DESCRIPTOR = frozenset(
    "read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 connect accept "
    "accept4 sendto recvfrom sendmsg recvmsg recvmmsg flock fcntl ioctl fsync fdatasync getdents "
    "getdents64 sendfile splice readahead fallocate sync_file_range syncfs copy_file_range".split()
)
PATH_ARGUMENT = {
    "open": 0, "stat": 0, "lstat": 0, "statfs": 0, "execve": 0, "rename": 0, "mkdir": 0,
    "unlink": 0, "readlink": 0, "openat": 1, "openat2": 1, "newfstatat": 1, "statx": 1,
    "readlinkat": 1, "mkdirat": 1,
}  # fmt: skip
PAGE_FAULT = "page fault"
_RESTARTED = "restart_syscall"
_BY_WCHAN = (("futex", "futex"), ("nanosleep", "clock_nanosleep"), ("poll", "poll"))
"""What the kernel continues under that name once a signal or a tracer has interrupted a wait with a timeout."""


class Call(NamedTuple):
    """A system call that a thread is in; without a name where there is none or it is not readable."""

    name: str
    arguments: tuple[int, ...] = ()


def call_of(pid: int, task: int, state: str) -> Call:
    """The system call that one thread is in now."""
    words = read_text(f"/proc/{pid}/task/{task}/syscall").split()
    if not words or words[0] == "running":
        return Call("")
    number = int(words[0])
    if number < 0:
        # Blocked outside any system call: the kernel is fetching a page, for example of a mapped file.
        return Call(PAGE_FAULT if state == "D" else "")
    name = _NAMES.get(number, f"system call {number}")
    if name == _RESTARTED:
        place = read_text(f"/proc/{pid}/task/{task}/wchan")
        # Its registers still hold the arguments of the first time.
        name = next((meant for part, meant in _BY_WCHAN if part in place), name)
    return Call(name, tuple(int(word, 16) for word in words[1:7]))
