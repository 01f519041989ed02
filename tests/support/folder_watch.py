"""Blocks until something in a folder changes: inotify, so that a test waits on a condition."""

from __future__ import annotations

import ctypes
import os
import select

_MODIFY, _CREATE, _MOVED_TO, _CLOSE_WRITE = 0x2, 0x100, 0x80, 0x8
_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Watches one folder, not its subfolders."""

    def __init__(self, path: str) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _MODIFY | _CREATE | _MOVED_TO | _CLOSE_WRITE
        if (
            self._descriptor < 0
            or _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask) < 0
        ):
            raise OSError(ctypes.get_errno(), f"cannot watch {path}")

    def wait(self, timeout_s: float) -> bool:
        """True when anything changed since the last call; False after `timeout_s` without."""
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, timeout_s))
        if not ready:
            return False
        os.read(self._descriptor, 1 << 16)
        return True

    def close(self) -> None:
        os.close(self._descriptor)
