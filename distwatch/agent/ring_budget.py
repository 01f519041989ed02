"""A process's ring and pulse, within what those of all of its user's processes may take of the memory.

That memory is the job's, too: its DataLoader workers and NCCL share tensors through /dev/shm.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

import msgspec

from distwatch.agent.journal import Journal
from distwatch.agent.pulse import PulsePage
from distwatch.foreign_files import open_ours
from distwatch.runfolder import SHM, RunFolder, is_private, memory_place
from distwatch.settings import LEAST_RING
from distwatch.state.frames import HEADER_SIZE, FileHeader
from distwatch.state.pulse import FILE_SIZE
from distwatch.state.quantities import bytes_text
from distwatch.visible_text import say

SHARE = 4
"""All rings and pulses of a user take one part in so many of their file system, at most."""
_TRIES = 3
_TURN_WITHIN_S = 0.05
_ADVICE = (
    "`distwatch clean` frees what ended runs hold; a larger tmpfs (docker run --shm-size), "
    "DISTWATCH_DIR on another one, or a smaller DISTWATCH_RING makes room"
)


class NoRoom(OSError):
    """Not even the smallest ring has a place; the run's first process to see that has said so."""


def open_memory(folder: RunFolder, stem: str, header: FileHeader) -> tuple[Journal, PulsePage, str]:
    """A new ring of the header's capacity, or a smaller one, and a new pulse.

    Returns:
        Also why the ring is smaller; '' where it is not.

    Raises:
        NoRoom: there is no room for any.
        OSError: there is no tmpfs, or they cannot be made.
    """
    place = folder.volatile
    if not place:
        raise OSError("neither the run folder nor /dev/shm is a tmpfs; set DISTWATCH_DIR")
    for _ in range(_TRIES):
        # Whoever frees the memory of ended processes takes a folder along that is empty.
        folder.create()
        with contextlib.suppress(FileNotFoundError), _turn(place):
            return _open(folder, f"{place}/{stem}", header)
    raise OSError(f"{place} was removed as often as it was made")


def _open(folder: RunFolder, path: str, header: FileHeader) -> tuple[Journal, PulsePage, str]:
    place, capacity = os.path.dirname(path), header.capacity
    while capacity >= LEAST_RING:
        fitting = msgspec.structs.replace(header, capacity=capacity)
        if made := _make(path, fitting):
            why = "" if capacity == header.capacity else _why_smaller(fitting, header, place)
            if why:
                _say_once(folder, why)
            return *made, why
        capacity //= 2
    why = f"off in process {header.pid}: {_what_is_taken(place)}"
    _say_once(folder, why)
    raise NoRoom(why)


def _why_smaller(made: FileHeader, wanted: FileHeader, place: str) -> str:
    return (
        f"the ring of process {made.pid} has {bytes_text(made.capacity)}, not "
        f"{bytes_text(wanted.capacity)}: {_what_is_taken(place)}"
    )


@contextlib.contextmanager
def _turn(place: str) -> Iterator[None]:
    """Ranks that start together look and take one after the other.

    Whoever waits for too long goes on without a turn: a rank may have been stopped in its own.
    """
    shared = memory_place() if place.startswith(f"{memory_place()}/") else os.path.dirname(place)
    descriptor = os.open(shared, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _TURN_WITHIN_S
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.001)
        yield
    finally:
        os.close(descriptor)


def _make(path: str, header: FileHeader) -> tuple[Journal, PulsePage] | None:
    """None where it would be more than the user's share, or than there is."""
    place = os.path.dirname(path)
    if _room(place) < HEADER_SIZE + header.capacity + FILE_SIZE:
        return None
    with contextlib.ExitStack() as undo:
        try:
            journal = Journal(f"{path}.ring", header)
            undo.callback(os.unlink, journal.path)
            page = PulsePage(f"{path}.pulse")
            undo.callback(os.unlink, page.path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return None
            raise
        # Without turns others may have found the same room at the same moment: all take less then.
        if _room(place) < 0:
            return None
        undo.pop_all()
        return journal, page


def _room(place: str) -> int:
    """Bytes that may still be taken: of this user's share, and no more than half of what is free."""
    whole = os.statvfs(place)
    share = whole.f_blocks * whole.f_frsize // SHARE - _taken(place)
    return min(share, whole.f_bavail * whole.f_frsize // 2)


def _taken(place: str) -> int:
    """Bytes of all rings and pulses of this user that are in the same file system."""
    device, uid, taken = os.stat(place).st_dev, os.getuid(), 0
    for run in _runs_in_memory(place):
        for entry in _entries(run):
            if entry.name.endswith((".ring", ".pulse")):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_uid) == (device, uid):
                        taken += status.st_blocks * 512
    return taken


def _runs_in_memory(place: str) -> Iterator[str]:
    roots = {os.path.dirname(place)}
    if is_private(memory_place()):
        roots.update(entry.path for entry in _entries(memory_place()))
    for root in roots:
        yield from (entry.path for entry in _entries(root))


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError:
        return []


def _what_is_taken(place: str) -> str:
    whole = os.statvfs(place)
    total, free = whole.f_blocks * whole.f_frsize, whole.f_bavail * whole.f_frsize
    where = SHM if place.startswith(f"{SHM}/") else os.path.dirname(place)
    return (
        f"rings of this user take {bytes_text(_taken(place))} of the {bytes_text(total)} at {where}; "
        f"the most is {bytes_text(total // SHARE)}, and {bytes_text(free)} are free"
    )


def _say_once(folder: RunFolder, why: str) -> None:
    """One process of the run says it for all."""
    try:
        os.close(open_ours(f"{folder.path}/memory.short", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    except OSError:
        pass  # better twice than never
    say(f"{why}. {_ADVICE}")
