"""A disk that stops answering: a read-only FUSE file system whose reads of chosen files stall.

Whoever reads from a stalled disk waits in the kernel, in a system call or a page fault, which
nothing in user space imitates. So this speaks the kernel's protocol (linux/fuse.h) over /dev/fuse,
in a process of its own, which no GIL holds up. A read that is to stall is never answered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import select
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_MS_RDONLY, _MNT_DETACH = 1, 2
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 26, 27, 28, 29, 36, 42
_REQUEST = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, …
_READ_IN = struct.Struct("<QQI")  # handle, offset, size, …
_ASYNC_READ, _KEEP_CACHE = 1, 2
_FOREVER_S = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


class StallingDisk:
    """A mounted disk, as a test sees it."""

    def __init__(self, path: str, server: subprocess.Popen[bytes]) -> None:
        self.path = Path(path)
        self.server = server
        self._stalled: set[str] = set()
        self._unread = b""

    def wait_stalled(self, name: str, timeout_s: float = 60.0) -> None:
        """Blocks until the kernel has asked for bytes of `name` that it will not get.

        For a memory map that is a page fault which waits. A `read` asks a few pages ahead, so its
        caller may still be on the way there.
        """
        limit = time.monotonic() + timeout_s
        while name not in self._stalled:
            line = self.read_line(max(0.0, limit - time.monotonic()))
            assert line is not None, f"no read of {name} stalled in {timeout_s:.0f} s"
            assert line, "the disk's process has ended"
            self._stalled.add(line)

    def read_line(self, timeout_s: float) -> str | None:
        """The next line that the disk's process says; "" after its end, None where none came."""
        assert self.server.stdout is not None
        limit = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left_s = max(0.0, limit - time.monotonic())
            if not select.select([self.server.stdout], [], [], left_s)[0]:
                return None
            if not (chunk := os.read(self.server.stdout.fileno(), 1 << 16)):
                return ""
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


@contextlib.contextmanager
def stalling_disk(folder: Path, stall: Mapping[str, int]) -> Iterator[StallingDisk]:
    """Mounts what is in `folder`; with the block's end it is gone, and stalled reads fail.

    Args:
        stall: per file, by its path in the folder, the offset from which on its bytes never come.
            What the kernel reads is pages, so the whole page of that byte is missing.
    """
    path = tempfile.mkdtemp(prefix="dw-disk-", dir="/tmp")
    command = [sys.executable, "-IS", __file__, path, str(folder), json.dumps(dict(stall))]
    pipe = subprocess.PIPE  # and a session of its own: a Ctrl-C is the test's
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
    disk = StallingDisk(path, server)
    try:
        word = disk.read_line(60.0)
        assert word == "mounted", "the disk was not mounted: its process says why"
        yield disk
    finally:
        try:
            server.communicate(timeout=10)  # it ends with its standard input
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()
        _unmount(path)  # where it could not do that any more
        os.rmdir(path)


@functools.cache
def stalling_disk_missing() -> str | None:
    """Why this machine cannot have such a disk, None where it can: it tries to mount one."""
    with tempfile.TemporaryDirectory(prefix="dw-disk-", dir="/tmp") as path:
        try:
            os.close(_mount(path))
        except OSError as error:
            return f"FUSE cannot be mounted here, which takes /dev/fuse and root: {error}"
        _unmount(path)
    return None


def _mount(path: str) -> int:
    """The descriptor of /dev/fuse by which the disk mounted at `path` is served."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    # One page a request: bytes before a stalled one are not held up with it.
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={_PAGE}"
    target, data = os.fsencode(path), options.encode()
    if _libc.mount(b"stalling_disk", target, b"fuse", ctypes.c_ulong(_MS_RDONLY), data) != 0:
        code = ctypes.get_errno()
        os.close(device)
        raise OSError(code, os.strerror(code), path)
    return device


def _unmount(path: str) -> None:
    """Lazily: whoever still has a file of it open or mapped gets errors from then on."""
    _libc.umount2(os.fsencode(path), _MNT_DETACH)


class _Server:
    """Answers the kernel, one request after the other, until its standard input ends."""

    def __init__(self, device: int, folder: str, stall: Mapping[str, int]) -> None:
        self._device = device
        self._folder = folder
        self._stall = stall
        self._names = {0: "", 1: ""}  # node: its path in the folder; 0 is none, 1 the root
        self._nodes: dict[str, int] = {}
        self._held: set[int] = set()

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._device, 0], [], [])
            if 0 in ready:
                return
            try:
                request = os.read(self._device, 1 << 17)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted by somebody else
                    return
                continue  # the request was taken back meanwhile
            _, opcode, unique, node, *_ = _REQUEST.unpack_from(request)
            self._take(opcode, unique, node, request[_REQUEST.size :])

    def _take(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        if opcode in (_FORGET, _BATCH_FORGET):
            return  # nobody waits for an answer
        if opcode == _INTERRUPT:
            # A signal for whoever waits: without an answer not even SIGKILL would end the wait.
            if (interrupted := struct.unpack_from("<Q", body)[0]) in self._held:
                self._held.remove(interrupted)
                self._answer(interrupted, errno.EINTR)
            return
        if opcode == _READ:
            _, offset, size = _READ_IN.unpack_from(body)
            if offset + size > self._stall.get(self._names[node], sys.maxsize):
                self._held.add(unique)
                print(self._names[node], flush=True)
                return
        try:
            self._answer(unique, 0, self._perform(opcode, node, body))
        except OSError as error:
            self._answer(unique, error.errno or errno.EIO)

    def _answer(self, unique: int, error: int, data: bytes = b"") -> None:
        with contextlib.suppress(FileNotFoundError):  # its process was killed
            os.write(self._device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)

    def _perform(self, opcode: int, node: int, body: bytes) -> bytes:
        path = os.path.join(self._folder, self._names[node])
        handle, offset, size = _READ_IN.unpack_from(body.ljust(_READ_IN.size, b"\0"))
        if opcode == _READ:
            return os.pread(handle, size, offset)
        if opcode == _LOOKUP:
            return self._look_up(self._names[node], os.fsdecode(body.rstrip(b"\0")))
        if opcode == _GETATTR:
            return struct.pack("<Q8x", _FOREVER_S) + _attributes(path, node)
        if opcode in (_OPEN, _OPENDIR):
            # Kept: to drop cached pages the kernel would wait for those that never come.
            return struct.pack("<QII", os.open(path, os.O_RDONLY), _KEEP_CACHE, 0)
        if opcode == _READDIR:
            return _entries(path, offset, size)
        if opcode in (_RELEASE, _RELEASEDIR):
            os.close(handle)
            return b""
        if opcode == _STATFS:
            return struct.pack("<40x4I24x", _PAGE, 255, _PAGE, 0)
        if opcode == _INIT:
            # No read-ahead, as what stalls is to be what somebody waits for; and no limit to the
            # requests under way, which those that stall would use up.
            limits = (0xFFFF, 0xFFFF, _PAGE)
            return struct.pack("<IIIIHHI40x", 7, 31, _PAGE, _ASYNC_READ, *limits)
        raise OSError(errno.ENOSYS, "nobody needs it")

    def _look_up(self, parent: str, name: str) -> bytes:
        found = os.path.join(parent, name)
        path = os.path.join(self._folder, found)
        os.stat(path)  # what does not exist becomes no node
        node = self._nodes.setdefault(found, len(self._names))
        self._names[node] = found
        head = struct.pack("<4Q8x", node, 0, _FOREVER_S, _FOREVER_S)
        return head + _attributes(path, node)


def _attributes(path: str, node: int) -> bytes:
    """struct fuse_attr of a file, through symbolic links: a hub's cache is made of them."""
    of = os.stat(path)
    times = int(of.st_atime), int(of.st_mtime), int(of.st_ctime), 0, 0, 0
    owner = of.st_mode, of.st_nlink, of.st_uid, of.st_gid, 0, _PAGE, 0
    return struct.pack("<6Q10I", node, of.st_size, of.st_blocks, *times, *owner)


def _entries(path: str, start: int, size: int) -> bytes:
    """The entries of a folder from the `start`-th on, as many as the kernel has room for."""
    packed = b""
    for place, name in enumerate(sorted(os.listdir(path))[start:], start + 1):
        kind = stat.S_IFMT(os.stat(os.path.join(path, name)).st_mode) >> 12
        raw = os.fsencode(name)
        entry = struct.pack("<QQII", place, place, len(raw), kind) + raw + bytes(-len(raw) % 8)
        if len(packed) + len(entry) > size:
            break
        packed += entry
    return packed


def main(path: str, folder: str, stall: str) -> None:
    """The disk's process."""
    device = _mount(path)
    try:
        print("mounted", flush=True)
        _Server(device, folder, json.loads(stall)).serve()
    finally:
        os.close(device)  # fails whatever waits
        _unmount(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
