"""What the root of a rack passes on to the root of the run: facts, the newest values, and suspects' evidence.

All of the rest stays in the rack's journals, and comes when somebody above asks for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from distwatch.observer.journals.reading import ROUTINE
from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import Record

REPRESENTATIVES = 4
"""Of ranks with the same stack, or the same entries in their recorders, so many are passed on."""
_CONTENTS_MOST = 4096


class _Kind(msgspec.Struct):
    """An event, as far as most of them need to be read."""

    kind: str
    process: str | None = None


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


_peek = msgspec.msgpack.Decoder(_Kind).decode
_ROUTINE = frozenset(_tag(kind) for kind in ROUTINE)
_STACK, _DUMP = _tag(ev.StackTaken), _tag(ev.CollectivesDumped)
# A gap in a rank's own stream would count as lost records. A snapshot that keeps nothing, and claims to
# be complete in nothing, says that its reader needs nothing of what came before.
_LEFT_OUT = encode_event(
    ev.Snapshot(
        incomplete=(
            _tag(ev.StepStarted),
            _tag(ev.GroupCreated),
            _tag(ev.ExceptionHeld),
            _tag(ev.LayoutHeld),
        )
    )
)


class Digest:
    """Decides on each record of a rack whether the root above gets it as a record."""

    def __init__(self) -> None:
        self._looks = self._whole_looks = 0
        self._suspects: frozenset[str] = frozenset()
        self._holders: dict[Hashable, set[str]] = {}

    @contextmanager
    def looking(self, suspects: tuple[str, ...], *, whole: bool) -> Iterator[None]:
        """While the root above has a look taken: values pass as records, and what suspects are doing.

        Args:
            suspects: processes of which everything is wanted.
            whole: everything of all processes is wanted.
        """
        self._suspects = frozenset(suspects)
        self._holders.clear()
        self._looks += 1
        self._whole_looks += whole
        try:
            yield
        finally:
            self._looks -= 1
            self._whole_looks -= whole

    def passed(self, stream: str, record: Record) -> Record | None:
        """The record as it is passed on; None: it is not."""
        try:
            head = _peek(record.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return record
        if head.kind in _ROUTINE:
            return record if self._looks else None
        if head.kind == _STACK:
            return record if self._is_wanted(head.process or "", record) else None
        if head.kind == _DUMP and not self._is_wanted(stream, record):
            return msgspec.structs.replace(record, payload=_LEFT_OUT)
        return record

    def _is_wanted(self, process: str, record: Record) -> bool:
        if self._whole_looks or process in self._suspects:
            return True
        content = _content_of(decode_event(record.payload))
        if content is None:
            return True
        if content not in self._holders and len(self._holders) >= _CONTENTS_MOST:
            return False
        holders = self._holders.setdefault(content, set())
        if process not in holders and len(holders) >= REPRESENTATIVES:
            return False
        holders.add(process)
        return True


def _content_of(event: ev.Event | None) -> Hashable | None:
    """What many ranks of a job have in common in such an event; None: it is of one rank alone."""
    if isinstance(event, ev.StackTaken):
        main = next((t for t in event.threads if t.name == ev.MAIN_THREAD), None)
        main = main or (event.threads[0] if event.threads else None)
        return None if event.native or main is None else hash(main.frames)
    if isinstance(event, ev.CollectivesDumped):
        if event.not_observed is not None:
            return None
        return hash(
            tuple(
                (e.pg_name, e.seq, e.op, e.over, e.input_sizes, e.input_dtypes)
                for e in event.entries
            )
        )
    return None
