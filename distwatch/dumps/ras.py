"""Answers of NCCL's RAS service, as JSON (2.28 and later) or text: how far each rank of a communicator is.

A difference in one answer may be work in progress; two answers show whether anything moves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from distwatch.diagnosis.facts.communicators import DEAD_WORDS
from distwatch.dumps.log.clock import LogClock
from distwatch.dumps.log.facts import Ended, Fact, Who, WorldSized
from distwatch.dumps.log.nccl import CommJoined
from distwatch.state.bounds import MOST_RANKS

_HEAD = re.compile(r"NCCL version \S+ compiled with CUDA")
_COMM = re.compile(r"^#(?P<group>\d+)-\d+ \((?P<hash>[0-9a-f]+)\) (?P<what>[A-Z, ]+)$")
_ROW = re.compile(
    r"^ *(?P<group>\d{1,5}) +\d+ +\d+ +[\d-]+ +(?P<size>\d{1,6}) +\d+ +[A-Z,]+ +[A-Z,]+ *$"
)
"""Of the table of communicators: the group's number, and how many ranks each of its communicators has."""
_DIFFERENT = re.compile(r"Communicator ranks have different (?:(?P<op>\w+) )?operation counts")
_MANY = re.compile(r"^\s*(\d{1,6}) ranks? ha(?:s|ve) launched up to operation (\d{1,18})")
_NONE = re.compile(r"^\s*(\d{1,6}) ranks? ha(?:s|ve) not launched any operations")
_ONE = re.compile(
    r"^\s*Rank (?P<rank>\d{1,6})(?: has launched up to operation (?P<count>\d{1,18})"
    r"|(?P<none> has not launched any operations))?"
    r"(?: -- GPU \S+ managed by process (?P<pid>\d{1,10}) on node (?P<host>\S+))?"
)
_DEAD = re.compile(r"^\s*Process (\d{1,10}) on node (\S+) managing GPU")


class CommCounted(Fact, frozen=True, kw_only=True):
    """How many operations each rank of a communicator has launched."""

    comm: str
    size: int
    counts: dict[int, int]
    """By rank in the communicator; only those that the answer lists."""
    usual: int = -1
    """What all others have launched; -1: they are not counted."""
    op: str = ""
    writers: dict[int, Who] = {}
    """The processes of ranks, also of those that gave no count; only those that the answer lists."""
    silent: tuple[int, ...] = ()
    """Ranks that gave no count."""


class RasAnswered(Fact, frozen=True, kw_only=True):
    """RAS was asked once: a communicator that only an earlier answer tells of has moved on."""


def is_ras_text(text: str) -> bool:
    """Whether it is the text form of an answer."""
    return bool(_HEAD.search(text[:4000])) and "Communicators..." in text


def read_ras_json(plain: dict[str, Any], year: int) -> Iterator[Fact]:
    """The facts of one answer.

    Raises:
        TypeError, ValueError, KeyError: it is something else.
    """
    time_ns = LogClock(year).time_ns(str(plain.get("timestamp", "")))
    yield RasAnswered(who=Who(attempt=-1), time_ns=time_ns)
    for comm in plain["communicators"]:
        name = f"{comm['hash']}"
        counts: dict[int, int] = {}
        by_op: dict[str, set[int]] = {}
        writers: dict[int, Who] = {}
        for one in comm["ranks"]:
            rank = _rank(one["rank"])
            said = {str(op): int(n) for op, n in one["collective_counts"].items()}
            counts[rank] = sum(said.values())
            for op, number in said.items():
                by_op.setdefault(op, set()).add(number)
            writers[rank] = _writer(one.get("pid"), one.get("host"))
        silent = {
            _rank(one["rank"]): _writer(one.get("pid"), one.get("host"))
            for one in comm.get("missing_ranks", ())
        }
        differing = [op for op, numbers in by_op.items() if len(numbers) > 1]
        yield CommCounted(
            who=Who(attempt=-1),
            time_ns=time_ns,
            comm=name,
            size=_rank(comm["size"]),
            counts=counts,
            op=differing[0] if len(differing) == 1 else "",
            writers=writers | silent,
            silent=tuple(silent),
        )
        yield from _joined(writers | silent, _rank(comm["size"]), time_ns)
        for one in comm.get("missing_ranks", ()):
            if (one.get("status") or {}).get("considered_dead"):
                who = silent[_rank(one["rank"])]
                yield Ended(who=who, time_ns=time_ns, how=DEAD_WORDS)


def _rank(number: Any) -> int:
    found = int(number)
    if not 0 <= found <= MOST_RANKS:
        raise ValueError(f"{found} is not a rank")
    return found


def _writer(pid: Any, host: Any) -> Who:
    return Who(labels=(f"pid:{pid}@{host}", f"pid:{pid}"), attempt=-1) if pid else Who(attempt=-1)


def _joined(writers: dict[int, Who], size: int, time_ns: int) -> Iterator[Fact]:
    yield WorldSized(who=Who(attempt=-1), time_ns=time_ns, size=size)
    for rank, who in writers.items():
        yield CommJoined(who=who, time_ns=time_ns, size=size, rank=rank)


class _Section(msgspec.Struct, kw_only=True):
    """A paragraph about one communicator."""

    comm: str = ""
    size: int = 0
    """Ranks of it, by the table of communicators."""
    op: str = ""
    differs: bool = False
    silent: dict[int, Who] = {}
    """Ranks of it that RAS has no data from."""
    totals: list[tuple[int, int]] = []
    listed: dict[int, tuple[int, Who]] = {}
    last_count: int = -1


def read_ras_text(text: str, year: int) -> list[Fact]:
    """The facts of one answer."""
    section = _Section()
    facts: list[Fact] = [RasAnswered(who=Who(attempt=-1))]
    in_dead = is_incomplete = False
    sizes: dict[str, int] = {}
    silent: dict[str, dict[int, Who]] = {}
    for line in [*text.splitlines(), "#0-0 (0) END"]:
        if row := _ROW.match(line):
            sizes[row["group"]] = _rank(row["size"])
        if line.strip() == "DEAD":
            in_dead = True
        if in_dead and (dead := _DEAD.match(line)):
            facts.append(Ended(who=_writer(dead[1], dead[2]), how=DEAD_WORDS))
        if comm := _COMM.match(line.strip()):
            in_dead = False
            facts += _counted(section)
            section = _Section(
                comm=comm["hash"],
                size=sizes.get(comm["group"], 0),
                silent=silent.setdefault(comm["hash"], {}),
            )
            is_incomplete = "INCOMPLETE" in comm["what"]
        elif different := _DIFFERENT.search(line):
            facts += _counted(section)
            op = different["op"] or ""
            section = msgspec.structs.replace(section, op=op, differs=True, totals=[], listed={})
        elif section.differs:
            _read_count(section, line)
        elif section.size and (one := _ONE.match(line)):
            writers = {_rank(one["rank"]): _writer(one["pid"], one["host"])}
            facts += _joined(writers, section.size, 0)
            if is_incomplete:
                section.silent.update(writers)
    if sizes:
        facts.append(WorldSized(who=Who(attempt=-1), size=max(sizes.values())))
    return facts


def _read_count(section: _Section, line: str) -> None:
    if many := _MANY.match(line):
        section.totals.append((int(many[1]), int(many[2])))
        section.last_count = int(many[2])
    elif none := _NONE.match(line):
        section.totals.append((int(none[1]), 0))
        section.last_count = 0
    elif one := _ONE.match(line):
        alone = "0" if one["none"] else one["count"]
        count = int(alone) if alone else section.last_count
        section.listed[_rank(one["rank"])] = (count, _writer(one["pid"], one["host"]))
        if alone:
            section.totals.append((1, count))


def _counted(section: _Section) -> Iterator[Fact]:
    if not section.totals:
        return
    counted = sum(ranks for ranks, _ in section.totals)
    # Whoever gave no count has a number, too: those of the others may be beyond their sum.
    size = section.size if counted <= section.size <= counted + len(section.silent) else counted
    rest = Counter({count: 0 for _, count in section.totals})
    for ranks, count in section.totals:
        rest[count] += ranks
    rest.subtract(count for count, _ in section.listed.values())
    usual = max(rest, key=lambda count: rest[count])
    if size <= MOST_RANKS:
        yield CommCounted(
            who=Who(attempt=-1),
            comm=section.comm,
            size=size,
            counts={rank: count for rank, (count, _) in section.listed.items()},
            usual=usual,
            op=section.op,
            writers=(
                writers := section.silent | {r: who for r, (_, who) in section.listed.items()}
            ),
            silent=tuple(section.silent),
        )
        yield from _joined(writers, size, 0)
