"""An answer of NCCL's RAS service as an observer's event: communicators, their processes, their counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from distwatch.dumps.log.facts import Ended, Fact, Who
from distwatch.dumps.ras import CommCounted, is_ras_text, read_ras_json, read_ras_text
from distwatch.state.bounds import whole_number
from distwatch.state.events import Communicator, CommunicatorsSeen
from distwatch.state.recorder_entries import LARGEST
from distwatch.visible_text import visible

MOST_MEMBERS = 40_000
"""Members of all communicators of one answer: a journal takes 256 KiB of an event."""


_NAME = 128


class NotRas(ValueError):
    """It is no answer of NCCL's RAS."""


class _Table:
    """The processes that an answer names, each once."""

    def __init__(self) -> None:
        self.processes: dict[tuple[str, int], int] = {}

    def place(self, who: Who) -> int:
        """The index of a process; -1 where the answer does not say which one it is."""
        label = next((one for one in who.labels if "@" in one), "")
        pid, _, host = label.removeprefix("pid:").partition("@")
        if (number := whole_number(pid)) is None:
            return -1
        return self.processes.setdefault((visible(host)[:_NAME], number), len(self.processes))


def read_communicators(host: str, content: bytes) -> CommunicatorsSeen:
    """The event of one answer, JSON or text; without times.

    Raises:
        NotRas: it is damaged, or something else.
    """
    facts = list(_facts_in(content))
    counted: dict[str, list[CommCounted]] = {}
    for fact in facts:
        if isinstance(fact, CommCounted):
            if max((*fact.counts.values(), fact.usual)) > LARGEST or len(fact.comm) > _NAME:
                raise NotRas("its numbers are out of range")
            counted.setdefault(fact.comm, []).append(fact)
    table = _Table()
    dead = [table.place(fact.who) for fact in facts if isinstance(fact, Ended)]
    communicators = [_communicator(name, parts, table) for name, parts in counted.items()]
    return CommunicatorsSeen(
        host=host,
        processes=tuple(table.processes),
        dead=tuple(place for place in dead if place >= 0),
        communicators=tuple(communicators),
    )


def bounded(seen: CommunicatorsSeen) -> CommunicatorsSeen:
    """The same answer as far as a journal takes it: where counts differ first, then the largest."""
    kept: list[Communicator] = []
    left = MOST_MEMBERS
    for one in sorted(seen.communicators, key=lambda comm: (not comm.others, -comm.size)):
        left -= max(len(one.processes), 1) + 2 * len(one.others)
        if left < 0:
            break
        kept.append(one)
    return msgspec.structs.replace(seen, communicators=tuple(kept))


def _facts_in(content: bytes) -> Iterable[Fact]:
    year = time.gmtime().tm_year
    text = content.decode("utf-8", "replace")
    try:
        if content.lstrip()[:1] == b"{":
            return list(read_ras_json(msgspec.json.decode(content), year))
        if is_ras_text(text):
            return read_ras_text(text, year)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotRas(f"it is damaged: {type(error).__name__}") from None
    raise NotRas("it is no answer of NCCL's RAS")


def _communicator(name: str, parts: list[CommCounted], table: _Table) -> Communicator:
    """Text has a part for each operation whose counts differ: they count together."""
    size = max(part.size for part in parts)
    silent = {rank for part in parts for rank in part.silent}
    listed = {rank for part in parts for rank in part.counts if rank < size} - silent
    usual = sum(part.usual for part in parts) if all(part.usual >= 0 for part in parts) else -1
    counts = {rank: sum(part.counts.get(rank, part.usual) for part in parts) for rank in listed}
    if usual < 0 and counts:
        # JSON lists every rank.
        usual = Counter(counts.values()).most_common(1)[0][0]
        silent |= set(range(size)) - counts.keys()
    writers = {rank: who for part in parts for rank, who in part.writers.items()}
    places = [table.place(writers[rank]) if rank in writers else -1 for rank in range(size)]
    return Communicator(
        name=name,
        size=size,
        processes=tuple(places) if max(places, default=-1) >= 0 else (),
        launched=usual,
        others={rank: count for rank, count in counts.items() if count != usual},
        silent=tuple(sorted(silent)),
        op=parts[0].op if len(parts) == 1 else "",
    )
