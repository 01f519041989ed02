"""Events about the files that a process writes, as an observer sees them."""

from __future__ import annotations

import msgspec

from distwatch.state.event import Event


class WrittenFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A file that a process has open for writing, and where it lies."""

    path: str
    written_bytes: int = 0
    """How far into the file it has written."""
    unchanged_since_ns: int = 0
    """Since when no look has seen it get further; 0: this is the first look."""
    storage: str = ""
    """The kernel's type of the file system: `ext4`, `nfs4`, `fuse.s3fs`."""
    source: str = ""
    """What is mounted there: a device, or `server:/export`."""
    mount: str = ""
    free_bytes: int | None = None
    """What this user may still write there; None: not observed."""


class FilesWritten(Event, frozen=True, kw_only=True):
    """The files that a process writes while it saves a checkpoint: the ones it waits for first."""

    is_routine = True

    process: str
    files: tuple[WrittenFile, ...] = ()
