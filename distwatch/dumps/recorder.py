"""Dumps of torch's flight recorder: pickle or JSON, of every known version.

Source: torch/csrc/distributed/c10d/FlightRecorder (versions 1.x to 2.10 of its format, the newest in torch 2.13 and
in its main branch when this was written); NCCL, gloo and torch's own hooks fill the same fields differently.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from distwatch.dumps.plain_pickle import NotPlain, bounded_memory, load_plain
from distwatch.errors import DistwatchError
from distwatch.state.recorder_entries import LARGEST, is_over

ENTRIES_AT_MOST = 100_000
Int = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""A pickle can hold numbers that no journal can."""
_RANKS = re.compile(r"\d+")
_P2P = re.compile(r"(send|recv)\s+(\d+)\s*(?:->|<-)\s*(\d+)")


class NotARecorderDump(DistwatchError):
    """A file that is readable but is not a recorder's dump."""


class Frame(msgspec.Struct, frozen=True):
    """One Python frame of a call; the recorder lists the innermost first."""

    name: str = "?"
    filename: str = ""
    line: Int = 0


class Entry(msgspec.Struct, frozen=True):
    """One recorded call, by the recorder's own field names."""

    record_id: Int = 0
    pg_id: Int = -1
    process_group: tuple[str, str] = ("", "")
    collective_seq_id: Int = 0
    seq_id: Int = 0
    """Of format 1.x."""
    p2p_seq_id: Int = 0
    profiling_name: str = ""
    time_created_ns: Int = 0
    time_discovered_started_ns: Int | None = None
    time_discovered_completed_ns: Int | None = None
    input_sizes: tuple[tuple[Int, ...], ...] = ()
    output_sizes: tuple[tuple[Int, ...], ...] = ()
    input_dtypes: tuple[str, ...] = ()
    state: str = ""
    retired: bool = False
    timeout_ms: Int | None = None
    is_p2p: bool = False
    frames: tuple[Frame, ...] = ()

    @property
    def seq(self) -> int:
        return self.collective_seq_id or self.seq_id

    @property
    def over(self) -> bool:
        return is_over(self.retired, self.state)

    @property
    def peers(self) -> tuple[str, int] | None:
        """(`send` or `recv`, the peer's rank in the group) of a p2p call."""
        found = _P2P.search(self.profiling_name) if self.is_p2p else None
        return (found[1], int(found[3])) if found else None


class Status(msgspec.Struct, frozen=True):
    """A group's progress by its newest numbers; -1 where there was none."""

    last_enqueued_collective: Int = -1
    last_started_collective: Int = -1
    last_completed_collective: Int = -1


class GroupConfig(msgspec.Struct, frozen=True):
    name: str = ""
    desc: str = ""
    ranks: str | tuple[Int, ...] = ""
    """A list or its text, depending on the version; empty with gloo."""

    @property
    def members(self) -> tuple[int, ...]:
        if isinstance(self.ranks, tuple):
            return self.ranks
        return _ranks_in(self.ranks)


@lru_cache(maxsize=4096)
def _ranks_in(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _RANKS.findall(text))


class RecorderDump(msgspec.Struct, frozen=True):
    """The recorder of one rank."""

    entries: tuple[Entry, ...] = ()
    version: str = ""
    pg_config: dict[str, GroupConfig] = {}
    pg_status: dict[str, Status] = {}
    rank: Int | None = None
    """Only some writers include it; otherwise the file's name has it."""

    @property
    def is_timed(self) -> bool:
        """Whether it knows when calls start (TORCH_NCCL_ENABLE_TIMING).

        torch's hooks (`nccl2` and other backends without a recorder of their own) learn only of ends, and
        write that time as both.
        """
        return any(
            e.state == "started"
            or (
                e.time_discovered_started_ns
                and e.time_discovered_started_ns != e.time_discovered_completed_ns
            )
            for e in self.entries
        )


def read_recorder_dump(content: bytes) -> RecorderDump:
    """A dump from its bytes, pickle or JSON.

    Raises:
        NotPlain: a pickle that is damaged or would run code.
        NotARecorderDump: it is something else.
    """
    try:
        plain: Any = msgspec.json.decode(content) if _is_json(content) else load_plain(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecorderDump(f"it is not complete JSON: {error}"[:200]) from None
    if not isinstance(plain, dict) or not plain.keys() & {"entries", "pg_status"}:
        raise NotARecorderDump(
            "it has no `entries`, so it is not a dump of torch's flight recorder"
        )
    if len(plain.get("entries") or ()) > ENTRIES_AT_MOST:
        raise NotARecorderDump(f"it has more than {ENTRIES_AT_MOST} entries")
    try:
        with bounded_memory(len(content)):
            return _converted(plain)
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
        raise NotARecorderDump(f"its entries are not a recorder's: {error}"[:200]) from None


def _converted(plain: dict[Any, Any]) -> RecorderDump:
    try:
        # The newest versions' format, decoded as a whole: a tenth of the time of decoding field by field.
        return msgspec.convert(plain, RecorderDump, strict=False)
    except msgspec.ValidationError:
        return msgspec.convert(_tidied(plain), RecorderDump, strict=False)


def _is_json(content: bytes) -> bool:
    return content.lstrip()[:1] in (b"{", b"[")


def _tidied(plain: dict[Any, Any]) -> dict[str, Any]:
    """What the versions write differently, in one form; fields that nobody needs are left out."""
    return {
        "entries": [_tidy_entry(entry) for entry in plain.get("entries") or ()],
        "version": str(plain.get("version", "")),
        "pg_config": {
            str(key): {name: value for name, value in config.items() if value is not None}
            for key, config in (plain.get("pg_config") or {}).items()
        },
        "pg_status": {str(key): status for key, status in (plain.get("pg_status") or {}).items()},
        "rank": plain.get("rank"),
    }


def _tidy_entry(entry: Any) -> dict[str, Any]:
    known = {key: entry[key] for key in Entry.__struct_fields__ if entry.get(key) is not None}
    group = known.get("process_group")
    if isinstance(group, str):
        known["process_group"] = (group, "")
    elif group is not None:
        known["process_group"] = (*map(str, group), "")[:2]
    return known


__all__ = ["NotARecorderDump", "NotPlain", "RecorderDump", "read_recorder_dump"]
