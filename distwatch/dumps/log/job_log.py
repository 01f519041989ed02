"""A job's log, of any size: the few lines that say something are found first, and only those are read.

Most lines of a log are steps and losses. Looking for fixed bytes is ten times as fast as taking each
line apart, so that is done for the whole file; its beginning, where ranks say who they are, and its
end, where they say their last, are read line by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from distwatch.dumps.log.clock import LogClock
from distwatch.dumps.log.facts import Fact, Named, Raised, Stacked, Who, WorldSized, Wrote
from distwatch.dumps.log.kernel import kernel_said
from distwatch.dumps.log.kubernetes import PodReader
from distwatch.dumps.log.launchers import (
    ElasticSummary,
    elastic_failure,
    is_restart,
    launcher_said,
)
from distwatch.dumps.log.lines import Line, Reader, identity_said, reader_of
from distwatch.dumps.log.native_aborts import TERMINATED, AbortReader
from distwatch.dumps.log.nccl import nccl_said
from distwatch.dumps.log.tracebacks import (
    HEADER,
    LINES_SCANNED,
    Block,
    is_error,
    place_of,
    raised_in,
)
from distwatch.dumps.log.watchdog import desync_said, mismatch_said, said_by_watchdog
from distwatch.dumps.stack_texts import read_stacks
from distwatch.redaction import redact_text
from distwatch.state.events import ThreadStack
from distwatch.state.observer_events import MAIN_THREAD

HEAD = 128 * 1024
TAIL = 256 * 1024
SILENCE_SEARCHED = 16 << 20
"""How far back the last line of a rank is looked for that wrote nothing at the end."""
HITS_AT_MOST = 50_000
"""Of one kind; the first of them are the nearest to the cause."""
_NEEDLES = (
    b"ProcessGroupNCCL.cpp",
    b"ProcessGroupGloo.cpp",
    b"Traceback (most",
    b"exitcode",
    b"killed",
    b"Killed",
    b"srun: ",
    b"NCCL WARN",
    b"nranks ",
    b"lagging",
    b"Worker group",
    b"Fatal Python",
    TERMINATED.encode(),
)
"""Few, since each costs a pass. What launchers write at the end of all is read with the file's end."""
_KERNEL_NEEDLES = (b"Xid", b"NVRM", b"mlx5", b"mlx4", b"bnxt", b"irdma")
_KERNEL = re.compile(rb"^(?:\[ *\d+\.\d+\] |.{0,80}\bkernel: )", re.M)
_LINES_AFTER = {b"lagging": 24, TERMINATED.encode(): 4}
"""Torch's desync report, and the message of a C++ exception, follow the line that is found."""
_SECTION = re.compile(r"==> (\S.{0,400}) <==\s*$")
_RANK = re.compile(r"(?i)rank[_\-=.]?(\d{1,6})")
_STACKS = b"(most recent call first):"
STACKS_AT_MOST = 16 << 20
_GLOG = re.compile(r"^\[[EWIF]\d{0,4} ")
_CLIENTS = re.compile(r"waiting for clients\. \d{1,6}/(\d{1,6}) clients joined")
_MONITORED = re.compile(
    r"(?:\[Rank \d+\]: Ranks? [\d, ]+failed to pass monitoredBarrier|Rank \d+ successfully reached monitoredBarrier)"
)


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """A log and what is known of it from outside."""

    name: str
    content: bytes
    scope: str
    """Where numbers of local ranks hold: a file, or a folder of torchrun's."""
    who: Who = Who()
    year: int = 2000
    """Of lines that do not say it."""


def read_log(log: LogFile) -> list[Fact]:
    """What a log says about processes, in its order."""
    starts = _starts(log.content)
    sample = (text for _, text in zip(range(2000), _lines(log.content, starts), strict=False))
    reader = reader_of(sample, log.scope, log.who)
    facts = _Reading(log, reader).read(starts)
    if _STACKS in log.content and len(log.content) <= STACKS_AT_MOST:
        facts += _labelled_stacks(log.content, reader)
    return facts


def _labelled_stacks(content: bytes, reader: Reader) -> Iterator[Fact]:
    """Stacks that faulthandler wrote into a log in which each line says its rank."""
    by_writer: dict[Who, list[str]] = {}
    for raw in content.decode("utf-8", "replace").split("\n"):
        for line in reader.lines(raw):
            if line.who != reader.who:
                by_writer.setdefault(line.who, []).append(line.text)
    for who, texts in by_writer.items():
        for process in read_stacks("\n".join(texts)):
            yield Stacked(who=who, threads=tuple(process.threads))


def _starts(content: bytes) -> list[int]:
    """Where the lines that are worth reading begin."""
    found: set[int] = set()
    is_kernel = _KERNEL.search(content[:HEAD])
    for needle in _NEEDLES + (_KERNEL_NEEDLES if is_kernel else ()):
        place, hits = content.find(needle), 0
        while place >= 0 and hits < HITS_AT_MOST:
            hits += 1
            begin = content.rfind(b"\n", 0, place) + 1
            found.add(begin)
            if after := _LINES_AFTER.get(needle):
                found |= _following(content, begin, after)
            end = content.find(b"\n", place)
            place = content.find(needle, end) if end >= 0 else -1
    for begin, end in ((0, HEAD), (max(0, len(content) - TAIL), len(content))):
        place = 0 if begin == 0 else content.find(b"\n", begin) + 1
        while place < min(end, len(content)):
            found.add(place)
            place = content.find(b"\n", place) + 1
            if place <= 0:
                break
    return sorted(found)


def _following(content: bytes, place: int, count: int) -> set[int]:
    found: set[int] = set()
    while len(found) < count and (place := content.find(b"\n", place) + 1) > 0:
        found.add(place)
    return found


def _lines(content: bytes, starts: list[int]) -> Iterator[str]:
    for start in starts:
        yield _text_at(content, start)[0]


def _text_at(content: bytes, start: int) -> tuple[str, int]:
    """The line that begins there, and where the next one begins."""
    end = content.find(b"\n", start)
    end = len(content) if end < 0 else end
    return content[start:end].decode("utf-8", "replace"), end + 1


class _Last(msgspec.Struct, kw_only=True):
    """The newest line of a writer."""

    who: Who
    text: str
    time_ns: int
    prefix: str
    place: int
    """Where in the file."""


class _Reading:
    """One pass over a log."""

    def __init__(self, log: LogFile, reader: Reader) -> None:
        self._log = log
        self._reader = reader
        self._clock = LogClock(log.year)
        self._attempt = max(log.who.attempt, 0)
        self._summary = ElasticSummary(log.scope)
        self._pods = PodReader()
        self._aborts = AbortReader()
        self._blocks: list[Block] = []
        self._last: dict[Who, _Last] = {}
        self._facts: list[Fact] = []
        self._place = 0

    def read(self, starts: list[int]) -> list[Fact]:
        content, upto = self._log.content, 0
        for start in starts:
            if start < upto:
                continue
            raw, upto = _text_at(content, start)
            self._place = start
            self._read_raw(raw)
            # A traceback goes on in lines that nothing else would have found.
            while self._blocks and upto < len(content):
                raw, upto = _text_at(content, upto)
                self._read_raw(raw)
        for block in self._blocks:
            self._close(block)
        self._facts += (self._last_words(last) for last in self._last.values())
        return self._facts

    def _read_raw(self, raw: str) -> None:
        if section := _SECTION.match(raw):
            # `tail` over several files: what follows is of another one.
            name = section[1]
            named = _RANK.search(name.rpartition("/")[2])
            who = Who(labels=(f"file:{name}",), global_rank=int(named[1]) if named else None)
            self._reader = msgspec.structs.replace(self._reader, who=who, scope=name)
            return
        for line in self._reader.lines(raw):
            who = msgspec.structs.replace(line.who, attempt=self._attempt)
            self._read_line(msgspec.structs.replace(line, who=who))

    def _read_line(self, line: Line) -> None:
        time_ns = self._clock.time_ns(line.raw)
        if self._continues(line) or not line.text.strip():
            return
        if HEADER in line.text:
            self._open(line, time_ns)
            return
        facts = list(self._facts_of(line, time_ns))
        self._facts += facts
        if is_restart(line.text) and self._log.who.attempt < 1:
            self._attempt += 1
        if line.who.is_known and not facts and not _GLOG.match(line.text):
            prefix = line.raw[: -len(line.text)] if line.raw.endswith(line.text) else ""
            self._last[line.who] = _Last(
                who=line.who, text=line.text, time_ns=time_ns, prefix=prefix, place=self._place
            )

    def _facts_of(self, line: Line, time_ns: int) -> Iterator[Fact]:
        yield from said_by_watchdog(line, time_ns)
        yield from desync_said(line, time_ns)
        yield from mismatch_said(line, time_ns)
        yield from nccl_said(line, time_ns)
        yield from kernel_said(line.text, time_ns, Who(attempt=-1))
        yield from elastic_failure(line, time_ns, self._log.scope)
        yield from self._summary.read(line, time_ns)
        yield from launcher_said(line, time_ns, self._log.scope)
        yield from self._pods.read(line.text, time_ns)
        yield from self._aborts.read(line, time_ns)
        if _MONITORED.search(line.text):
            yield Raised(
                who=line.who, time_ns=time_ns, type_name="RuntimeError", message=line.text[-1000:], uncaught=True
            )  # fmt: skip
        if said := identity_said(line.text):
            rank, size = said
            who = msgspec.structs.replace(line.who, global_rank=rank)
            if line.who.global_rank in (None, rank):
                yield Named(who=who, time_ns=time_ns)
                if size:
                    yield WorldSized(who=who, time_ns=time_ns, size=size)
        elif line.who.is_known:
            self._seen(line.who, time_ns)

    def _seen(self, who: Who, time_ns: int) -> None:
        if who not in self._last:
            self._facts.append(Named(who=who, time_ns=time_ns))

    def _open(self, line: Line, time_ns: int) -> None:
        hooked = line.who.global_rank is not None and "[rank" in line.raw
        text = line.text[line.text.index(HEADER) :]
        self._blocks.append(Block(who=line.who, time_ns=time_ns, hooked=hooked, lines=[text]))

    def _continues(self, line: Line) -> bool:
        """Whether the line belongs to a traceback that is being read."""
        for block in list(self._blocks):
            block.scanned += 1
            if block.scanned > LINES_SCANNED:
                self._blocks.remove(block)
                self._close(block)
                continue
            if block.who != line.who:
                continue
            place = place_of(line.text, block, "[rank" in line.raw and not _GLOG.match(line.text))
            if place == "end":
                self._blocks.remove(block)
                self._close(block)
                return False
            if place == "part":
                block.over = block.over or is_error(line.text)
                block.lines.append(line.text)
                return True
        return False

    def _close(self, block: Block) -> None:
        for raised in raised_in(block):
            self._facts.append(raised)
            if raised.type_name == "KeyboardInterrupt":
                # Ctrl-C on a job that hangs: each rank tells what it was in.
                main = ThreadStack(name=MAIN_THREAD, frames=raised.frames)
                self._facts.append(Stacked(who=raised.who, time_ns=raised.time_ns, threads=(main,)))
            told = Line(who=raised.who, text=raised.message, raw="")
            self._facts += mismatch_said(told, raised.time_ns)
            self._facts += said_by_watchdog(told, raised.time_ns)
            if clients := _CLIENTS.search(raised.message):
                size = int(clients[1])
                self._facts.append(WorldSized(who=raised.who, time_ns=raised.time_ns, size=size))

    def _last_words(self, last: _Last) -> Wrote:
        text = last.text
        tail = len(self._log.content) - TAIL
        if last.prefix.strip() and last.place < tail:
            # Between the file's two ends only a few lines were read.
            begin = max(0, tail - SILENCE_SEARCHED)
            found = self._log.content.rfind(b"\n" + last.prefix.encode(), begin, tail)
            if found >= 0:
                raw, _ = _text_at(self._log.content, found + 1)
                text = raw[len(last.prefix) :] or text
        return Wrote(who=last.who, time_ns=last.time_ns, text=redact_text(text.strip())[:300])
