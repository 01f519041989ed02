"""A checkpoint: the state that a run's journals give, beside them, so that not all is folded again.

The journals stay the truth. A checkpoint holds which bytes of which files it was made from; where one of
these files is not there any more, or is no longer what it was, the whole checkpoint does not count. Nor
does one that another version wrote, or that is damaged. All of that only costs time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec

from distwatch.garbage import without_collections
from distwatch.observer.journals.sealed import (
    UNREADABLE,
    form_of,
    read_sealed,
    seal,
    unseal,
    write_sealed,
)
from distwatch.runfolder import RunFolder, host_name
from distwatch.state import events as ev
from distwatch.state.bounds import MOST_LISTED
from distwatch.state.codec import decode_part, encode_event
from distwatch.state.frames import FileHeader
from distwatch.state.model import Group, RunState, Step, TimelineEntry
from distwatch.state.rank_spans import Spans, begin_event, pack_ranks, unpack_ranks

_Long = TypeVar("_Long")
_MAGIC = b"distwatch state 1\n"
"""With the revision of how events are folded, where the shape of the state does not show the change."""
_MOST_LISTED = 64 * MOST_LISTED


class ReadFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A journal as far as it was read: `upto` is the end of its last whole frame."""

    name: str
    inode: int
    size: int
    mtime_ns: int
    upto: int
    header: FileHeader
    damaged: int


class Checkpoint(msgspec.Struct, kw_only=True, gc=False):
    """What reading the journals gave.

    Attributes:
        state: folded from records alone, without live values.
        host: who read them, and `host_ns`, the newest time of its own.
        first_ns, newest_ns: the times of the first and the last record.
        known, ended: processes that were seen, and those whose end was seen.
    """

    state: RunState
    files: tuple[ReadFile, ...] = ()
    host: str = ""
    host_ns: int = 0
    first_ns: int = 0
    newest_ns: int = 0
    known: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()


_Integrations = tuple[tuple[str, ev.IntegrationChanged], ...]


class _Written(Checkpoint, kw_only=True, gc=False):
    """Its written form. What thousands of processes share is written once; lists of ranks as spans."""

    # The state in it is shortened, too: see `_shortened`.

    lists: tuple[tuple[Spans, tuple[int, ...]], ...] = ()
    groups: tuple[int, ...] = ()
    """For each group of each process, the place of its members in `lists`."""
    frames: tuple[tuple[ev.Frame, ...], ...] = ()
    """Equal stacks of all ranks once: diagnosis looks at each object once, see `cache_by_identity`."""
    stacks: tuple[int, ...] = ()
    """For each thread of each stack, the place of its frames in `frames`."""
    integrations: tuple[_Integrations, ...] = ()
    integrated: tuple[int, ...] = ()
    """For each process, the place of its integrations in `integrations`."""
    sites: tuple[ev.Site | None, ...] = ()
    located: tuple[int, ...] = ()
    """For each step and group of each process, the place of its call site in `sites`."""
    timeline: tuple[tuple[int, str, int, str, str, msgspec.Raw], ...] = ()


def path_of(folder: RunFolder) -> str:
    """Where the checkpoint of a run is."""
    return f"{folder.path}/state.checkpoint"


def write_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> bool:
    """Writes it; False where the folder cannot be written, or it would be too large."""
    return write_sealed(path_of(folder), _MAGIC, _Written, _encode(checkpoint))


def read_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """The checkpoint of a run; None where there is none that this version wrote whole."""
    content = read_sealed(path_of(folder), _MAGIC, _Written)
    try:
        return None if content is None else _decode(content)
    except UNREADABLE:
        return None


def state_form() -> str:
    """The form of a sealed state, for who may be of another version."""
    return form_of(_MAGIC, _Written)


def encode_state(state: RunState) -> bytes:
    """A state without the journals that it was read from; nothing may change it meanwhile."""
    return _encode(Checkpoint(state=state))


def seal_state(content: bytes) -> bytes | None:
    """An encoded state as a file or a message of its own; None where it would be too large."""
    return seal(_MAGIC, _Written, content)


def unseal_state(whole: bytes) -> RunState | None:
    """Reverses `encode_state` and `seal_state`; None where this version did not make it, or it is not whole."""
    content = unseal(_MAGIC, _Written, whole)
    try:
        with without_collections():
            return None if content is None else _decode(content).state
    except UNREADABLE:
        return None


def _groups_of(state: RunState) -> list[Group]:
    return [group for process in state.processes.values() for group in process.groups.values()]


def _steps_and_groups_of(state: RunState) -> list[Step | Group]:
    found: list[Step | Group] = []
    for process in state.processes.values():
        found += process.steps.values()
        found += process.groups.values()
    return found


def _threads_of(state: RunState) -> list[ev.ThreadStack]:
    return [
        thread
        for process in state.processes.values()
        for stack in (process.outside.stack, process.outside.native)
        if stack is not None
        for thread in stack.threads
    ]


class _Places(Generic[_Long]):
    """Gives equal values one place. Most are one object already, which needs no comparison."""

    def __init__(self) -> None:
        self.values: dict[_Long, int] = {}
        self._by_identity: dict[int, int] = {}

    def of(self, value: _Long) -> int:
        place = self._by_identity.get(id(value))
        if place is None:
            place = self.values.setdefault(value, len(self.values))
            self._by_identity[id(value)] = place
        return place


def _swap(owners: Sequence[Any], name: str, short: Callable[[Any], Any]) -> Callable[[], None]:
    """Gives an attribute of each its short form, which decoding expands; returns the way back."""
    before = [(owner, getattr(owner, name)) for owner in owners]
    for owner, value in before:
        if value:
            msgspec.structs.force_setattr(owner, name, short(value))

    def back() -> None:
        for owner, value in before:
            msgspec.structs.force_setattr(owner, name, value)

    return back


@contextmanager
def _shortened(state: RunState) -> Iterator[None]:
    processes = list(state.processes.values())
    backs = [
        _swap(processes, "group_calls", lambda calls: {n: c.to_wire() for n, c in calls.items()}),
        _swap(processes, "meshes", lambda meshes: [mesh.to_wire() for mesh in meshes]),
        _swap(_groups_of(state), "members", lambda _: ()),
        _swap(_threads_of(state), "frames", lambda _: ()),
        _swap(processes, "integrations", lambda _: {}),
        _swap(_steps_and_groups_of(state), "site", lambda _: None),
        _swap([state], "timeline", lambda _: []),
    ]
    try:
        yield
    finally:
        for back in backs:
            back()


def _encode(checkpoint: Checkpoint) -> bytes:
    state = checkpoint.state
    lists: _Places[tuple[int, ...]] = _Places()
    frames: _Places[tuple[ev.Frame, ...]] = _Places()
    integrations: _Places[_Integrations] = _Places()
    sites: _Places[ev.Site | None] = _Places()
    given = {name: getattr(checkpoint, name) for name in Checkpoint.__struct_fields__}
    written = _Written(
        **given,
        groups=tuple(lists.of(group.members) for group in _groups_of(state)),
        stacks=tuple(frames.of(thread.frames) for thread in _threads_of(state)),
        integrated=tuple(
            integrations.values.setdefault(one, len(integrations.values))
            for process in state.processes.values()
            for one in [tuple(process.integrations.items())]
        ),
        located=tuple(sites.of(one.site) for one in _steps_and_groups_of(state)),
        timeline=tuple(
            (e.time_ns, e.stream, e.seq, e.host, e.process, msgspec.Raw(encode_event(e.event)))
            for e in state.timeline
        ),
    )
    written.frames = tuple(frames.values)
    written.integrations = tuple(integrations.values)
    written.sites = tuple(sites.values)
    written.lists = tuple(
        (spans, () if spans else one) for one in lists.values for spans in [pack_ranks(one)]
    )
    with _shortened(state):
        return msgspec.msgpack.encode(written)


def _decode(content: bytes) -> Checkpoint:
    begin_event(_MOST_LISTED)
    written = msgspec.msgpack.decode(content, type=_Written)
    lists = [unpack_ranks(spans) if spans else one for spans, one in written.lists]
    for group, place in zip(_groups_of(written.state), written.groups, strict=True):
        group.members = lists[place]
    for thread, place in zip(_threads_of(written.state), written.stacks, strict=True):
        msgspec.structs.force_setattr(thread, "frames", written.frames[place])
    processes = written.state.processes.values()
    for held, place in zip(processes, written.integrated, strict=True):
        held.integrations = dict(written.integrations[place])
    for one, place in zip(_steps_and_groups_of(written.state), written.located, strict=True):
        one.site = written.sites[place]
    for time_ns, stream, seq, host, process, raw in written.timeline:
        begin_event()
        event = decode_part(raw)
        if event is None:
            raise ValueError("a timeline with what is no event")
        written.state.timeline.append(
            TimelineEntry(
                time_ns=time_ns, stream=stream, seq=seq, host=host, process=process, event=event
            )
        )
    return written


def still_holds(checkpoint: Checkpoint, folder: RunFolder) -> bool:
    """Whether each of its files still holds what it was read from, on the host that read it."""
    return checkpoint.host == host_name() and all(
        has_grown(read, f"{folder.path}/{read.name}") is not None for read in checkpoint.files
    )


def has_grown(read: ReadFile, path: str) -> bool | None:
    """Whether a file has more than what was read; None where it is not that file any more."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    if status.st_ino != read.inode or status.st_size < read.size:
        return None
    if status.st_size == read.size:
        return False if status.st_mtime_ns == read.mtime_ns else None
    return True
