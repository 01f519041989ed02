"""The only place that opens files which another user may have created.

Such a file may be a FIFO that blocks its reader for ever, an endless device, a link to another place,
or gigabytes long. So links are not followed, opening never waits, only this user's regular files are
opened, and at most `most` bytes are read.

Imports very little: it runs at the start of every process of a job.
"""

from __future__ import annotations

import errno
import os
import stat

_GUARDED = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class FileRefused(OSError):
    """distwatch does not read or write this file; `strerror` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPERM, why)

    def __str__(self) -> str:
        return str(self.strerror)


def open_ours(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file of this user; O_CREAT creates it, readable only by this user.

    Root may open the files of any user.

    Raises:
        OSError: the file does not exist, or is a link, a FIFO, a folder, a device, or another user's.
    """
    descriptor = open_named(path, flags | os.O_NOFOLLOW)
    owner = os.fstat(descriptor).st_uid
    if owner not in (os.getuid(), 0) and os.getuid() != 0:
        os.close(descriptor)
        raise FileRefused(f"{path} is a file of uid {owner}, not of uid {os.getuid()}")
    return descriptor


def read_ours(path: str, most: int) -> bytes:
    """The first `most` bytes of a regular file of this user; raises as `open_ours` does."""
    return read_and_close(open_ours(path), most)


def read_private(path: str, most: int) -> bytes:
    """Like `read_ours`, for a file that nobody else may read or write: a token and its address.

    Raises:
        OSError: also if the file is root's, or others may read it.
    """
    descriptor = open_ours(path)
    status = os.fstat(descriptor)
    content = read_and_close(descriptor, most)
    if status.st_uid != os.getuid():
        raise FileRefused(f"{path} is a file of uid {status.st_uid}, not of uid {os.getuid()}")
    if status.st_mode & 0o077:
        raise FileRefused(f"others may read {path} (mode {stat.S_IMODE(status.st_mode):04o})")
    return content


def read_named(path: str, most: int) -> bytes:
    """The whole content of a regular file that the user named; it may be a link, and anybody's.

    Raises:
        OSError: the file does not exist, is not a regular file, or has more than `most` bytes.
    """
    content = read_and_close(open_named(path), most + 1)
    if len(content) > most:
        raise FileRefused(f"{path} is larger than {most >> 20} MiB")
    return content


def open_named(path: str, flags: int = os.O_RDONLY) -> int:
    """Like `open_ours`, for a file that the user named."""
    descriptor = os.open(path, flags | _GUARDED, 0o600)
    try:
        require_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(descriptor: int, path: str) -> os.stat_result:
    """The file's status; raises FileRefused for a FIFO, a folder, a device or a socket."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise FileRefused(f"{path} is {kind}")
    return status


def read_and_close(descriptor: int, most: int) -> bytes:
    """Reads the first `most` bytes, and closes the descriptor."""
    try:
        parts: list[bytes] = []
        while most > 0 and (part := os.read(descriptor, min(most, 1 << 20))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def write_whole(path: str, content: bytes) -> None:
    """Replaces a file atomically, readable only by its owner.

    Raises:
        OSError: the disk is full or the folder is not writable; nothing is left behind.
    """
    # A name that others cannot guess: in a shared folder they could have created it first.
    fresh = f"{path}.{os.urandom(8).hex()}"
    descriptor = open_ours(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


def write_to_pipe(path: str, content: bytes) -> None:
    """Writes a few bytes to a named pipe of this user that somebody reads; never waits for a reader.

    Raises:
        OSError: there is no reader or no room, or it is not a pipe, a link, or another user's.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | _GUARDED)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISFIFO(status.st_mode):
            raise FileRefused(f"{path} is not a named pipe")
        if status.st_uid != os.getuid():
            raise FileRefused(f"{path} is a pipe of uid {status.st_uid}, not of uid {os.getuid()}")
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
