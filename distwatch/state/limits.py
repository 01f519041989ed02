"""Limits of a machine or a process that an error is about, by its text."""

from __future__ import annotations

import re

_LIMITS = (
    ("/dev/shm", r"insufficient shared memory|out of shared memory|(?:shared memory|/dev/shm).{0,200}no space left"),
    ("/dev/shm", r"no space left.{0,200}(?:/dev/shm|shared memory)|</?torch_\d+.{0,200}no space left"),
    ("open files", r"\[Errno 2[34]\]|too many open files"),
    ("disk quota", r"\[Errno 122\]|disk quota exceeded"),
    ("disk", r"\[Errno 28\]|no space left on device"),
    ("file size", r"\[Errno 27\]"),
    ("processes and threads", r"can't start new thread|\[Errno 11\] Resource temporarily unavailable"),
    ("memory", r"\[Errno 12\]|cannot allocate memory|^MemoryError\b|std::bad_alloc|can't allocate memory"),
    ("memory", r"Unable to allocate .{0,200} for an array|unable to mmap \d+ bytes"),
)  # fmt: skip
_PATTERNS = tuple((what, re.compile(pattern, re.IGNORECASE)) for what, pattern in _LIMITS)
_SHORT_WRITE = re.compile(
    r"PytorchStreamWriter failed writing|inline_container\.cc:\d+\] ?\. (?:unexpected pos|.{0,200}file write failed)"
    r"|basic_ios::clear: iostream error"
)
_READ = 4000


def limit_in(text: str) -> str:
    """`open files`, `disk`, …: the limit that an error's `TypeName: message` is about; '' for none.

    A device's memory is none of them: its size is the device's.
    """
    if not text:
        return ""
    text = text[:_READ]
    return next((what for what, pattern in _PATTERNS if pattern.search(text)), "")


def first_limit(said: str, cause: str) -> str:
    """The limit that an exception is about, or the first one of its chain; '' for none.

    Args:
        said, cause: each as `TypeName: message`.
    """
    # What would block is an answer that a program asks for, as of a lock that another process holds.
    return limit_in(said) or ("" if cause.startswith("BlockingIOError") else limit_in(cause))


def is_short_write(text: str) -> bool:
    """Whether torch's writer of files says that not all was written; it never says why."""
    return bool(_SHORT_WRITE.search(text))
