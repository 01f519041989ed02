"""The pulse: a small memory map with the process's progress, rewritten in place under a seqlock."""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from distwatch.agent.journal import create_map
from distwatch.state.events import Pulse
from distwatch.state.pulse import (
    FILE_SIZE,
    LEFT_OFFSET,
    NAMES_OFFSET,
    PAGE_SIZE,
    SLOT,
    SLOT_SIZE,
    SLOTS,
    SPLITS_OFFSET,
    encode_page,
)
from distwatch.state.splits import SPLIT_SLOTS, SPLITS_SIZE, Rows, write_splits

if TYPE_CHECKING:
    from distwatch.agent._calls import CallRecord

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


class PulsePage:
    """Writes one process's pulse file. Only the agent's thread may call `write`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._map: mmap.mmap | bytearray = create_map(path, FILE_SIZE)
        self._lock = 0
        self.operations = OperationsRing(self._map)

    def forget(self) -> None:
        """Switches to private memory: nobody reads it any more."""
        self.operations.forget()
        self._map = bytearray(FILE_SIZE)

    def write(self, pulse: Pulse) -> None:
        """Replaces the page; a pulse that is too large loses the groups that changed least recently."""
        body = encode_page(pulse)
        if body is None:
            newest = sorted(pulse.groups, key=lambda group: -group.changed_ns)[:64]
            short = msgspec.structs.replace(
                pulse, groups=tuple(newest), peers=pulse.peers[:16], loads=pulse.loads[:4]
            )
            body = encode_page(short)
            if body is None:
                return
        _U64.pack_into(self._map, 0, self._lock + 1)
        self._map[8 : 8 + len(body)] = body
        self._lock += 2
        _U64.pack_into(self._map, 0, self._lock)


class OperationsRing:
    """The last calls of `ProcessGroup` methods. Costs about a microsecond per call."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory
        self._next_number: Callable[[], int] = itertools.count(1).__next__
        self._compiled: CallRecord | None = None
        self._split = 0
        self._names: dict[str, int] = {}
        self._table = bytearray()
        self.name("")

    def name(self, text: str) -> int:
        """A small number for a string; 0 (the empty string) where the table is full."""
        number = self._names.get(text)
        if number is not None:
            return number
        entry = text.replace("\n", " ").encode("utf-8", "replace") + b"\n"
        start = NAMES_OFFSET + 4 + len(self._table)
        if start + len(entry) > SPLITS_OFFSET:
            return 0
        self._memory[start : start + len(entry)] = entry
        self._table += entry
        _U32.pack_into(self._memory, NAMES_OFFSET, len(self._table))
        number = self._names[text] = len(self._names)
        return number

    def enter(
        self,
        now: int,
        op: int,
        group: int,
        seq: int,
        site: int,
        numel: int,
        dtype: int,
        peer: int,
        tag: int = 0,
    ) -> int:
        """Records that a call began (`now`: CLOCK_MONOTONIC ns); returns the token for `leave`."""
        number = self._next_number()
        offset = PAGE_SIZE + number % SLOTS * SLOT_SIZE
        SLOT.pack_into(
            self._memory,
            offset,
            number,
            now,
            0,
            seq,
            numel,
            site,
            op,
            group,
            dtype,
            tag,
            peer,
            number,
        )
        return number

    def leave(self, number: int, now: int) -> None:
        """Records that the call returned, unless its slot was taken by a newer one."""
        offset = PAGE_SIZE + number % SLOTS * SLOT_SIZE
        if _U64.unpack_from(self._memory, offset)[0] == number:
            _U64.pack_into(self._memory, offset + LEFT_OFFSET, now)

    def note_splits(
        self, number: int, lists: tuple[Rows, Rows], totals: tuple[int, int], rows: tuple[int, int]
    ) -> None:
        """Records what an all_to_all gives and takes, before it is made: the library may end the process in it."""
        place = SPLITS_OFFSET + self._split % SPLIT_SLOTS * SPLITS_SIZE
        self._split += 1
        write_splits(self._memory, place, number, lists, totals, rows)

    def share(self, compiled: CallRecord) -> None:
        """Lets compiled code write into the slots too. From now on it gives out the numbers."""
        compiled.attach(self._memory, PAGE_SIZE, SLOTS, self._next_number())
        self._stop_sharing()
        self._next_number, self._compiled = compiled.next_number, compiled

    def _stop_sharing(self) -> None:
        if self._compiled is not None:
            self._compiled.detach()
            self._compiled = None

    def forget(self) -> None:
        """Switches to private memory in a forked child, whose calls are not this rank's."""
        self._stop_sharing()
        self._memory = bytearray(FILE_SIZE)
