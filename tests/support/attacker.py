"""What another user of the machine can lay in our way: his own files, of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ATTACKER = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's files")


def theirs(path: Path) -> Path:
    """The same file, as the attacker's."""
    os.chown(path, ATTACKER, ATTACKER, follow_symlinks=False)
    return path


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o666)


def make_device(path: Path) -> None:
    # /dev/zero: it can be read for ever.
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_text("pid=1\nticks=1\nppid=1\nrole=rank\nhost=h\nRANK=0\n")


TRAPS: dict[str, Callable[[Path], None]] = {
    "fifo": make_fifo,
    "device": make_device,
    "link": make_link,
    "folder": make_folder,
    "file": make_file,
}
"""How a file that we would open can be made by somebody else before us."""
