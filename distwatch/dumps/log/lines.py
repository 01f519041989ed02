"""One line of a log: without colours and launchers' prefixes, and with what these say about its writer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.dumps.log.facts import Who
from distwatch.state.bounds import MOST_RANKS

LONGEST = 8192
"""Characters of a line that are read."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_DOCKER = re.compile(r'\{"log":"((?:[^"\\]|\\.)*)"')
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d) (?:std(?:out|err) [FP] )?")
_NEXT_RANK = re.compile(r"(?:\[[A-Za-z_]\w*?\d{1,5}\]:)?\[rank\d{1,6}\]:")
_LABELS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("rank", re.compile(r"\s*\[rank[: ]? ?(\d{1,6})\]:? ?")),
    (
        "ray",
        re.compile(r"\s*\(([\w.:<>+-]+)(?: rank=(\d+))?,? pid=(\d+)(?:, ip=([\w.:-]+))?\) ?"),
    ),
    ("pod", re.compile(r"\s*\[pod/([^/\]]+)/[^\]]+\] ?")),
    (
        # With mpirun's --timestamp-output, the time comes first.
        "mpi",
        re.compile(
            r"\s*(?:[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:]{8} \d{4})?"
            r"\[(?:[\w.-]+@)?\d+,(\d{1,6})\]<\w+>: ?"
        ),
    ),
    ("local", re.compile(r"\s*\[(?!rank)[A-Za-z_]\w*?(\d{1,5})\]:")),
)
_BY_STYLE: dict[str, re.Pattern[str]] = {
    "task": re.compile(r" {0,6}(\d{1,6}): ?"),
    "bracket": re.compile(r"\[ {0,5}(\d{1,6})\]:? ?"),
    "compose": re.compile(r"([a-z0-9][\w.-]{0,80}) +\| "),
    "word": re.compile(r"([A-Za-z][\w.-]{0,80}): "),
    "pod_word": re.compile(r"([a-z0-9][a-z0-9-]*-\d{1,5}(?:-[a-z0-9]{5})?) [a-z0-9-]+ "),
}
_SAMPLE = 2000
_SHARE = 0.5
_RANK_OF = re.compile(
    r"(?i)(?<![\w-])(?<!local )(?<!local_)(?<!group )(?<!node )(?<!\bdp )(?<!\btp )(?<!\bpp )"
    r"(?:global[ _])?rank\s*[:=]?\s*(\d{1,6})\s*"
    r"(?:of|/|out of|,?\s*world[_ ]size\s*[:=]?)\s*(\d{1,6})(?![\d.])"
)
_GLOBAL_RANK = re.compile(r"(?i)\bglobal[ _]rank\s*[:=]?\s*(\d{1,6})(?:, MEMBER: \d+/(\d{1,6}))?")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line, or the part of one that a single rank wrote."""

    who: Who
    text: str
    raw: str


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """How to read the lines of one file: its scope for local ranks, and prefixes seen in many lines."""

    scope: str
    who: Who = Who()
    """Whom the whole file is of."""
    style: str = ""
    words: frozenset[str] = frozenset()

    def lines(self, raw: str) -> Iterator[Line]:
        """The parts of one raw line: two ranks may have written into it."""
        text = plain(raw)
        while text:
            labels, rank, rest = self._peel(text)
            cut = _NEXT_RANK.search(rest, 1)
            part, text = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, "")
            yield Line(who=self._who(labels, rank), text=part, raw=raw)

    def _who(self, labels: list[str], rank: int | None) -> Who:
        if rank is None and not labels:
            return self.who
        return msgspec.structs.replace(
            self.who,
            labels=(*labels, *self.who.labels),
            global_rank=rank if rank is not None else self.who.global_rank,
        )

    def _peel(self, text: str) -> tuple[list[str], int | None, str]:
        labels: list[str] = []
        rank: int | None = None
        place = 0
        for _ in range(6):
            found = self._label_at(text, place)
            if found is None:
                break
            label, said, place = found
            labels += label
            rank = said if said is not None else rank
        return labels, rank, text[place:]

    def _label_at(self, text: str, place: int) -> tuple[list[str], int | None, int] | None:
        for kind, pattern in _LABELS:
            if found := pattern.match(text, place):
                labels, rank = _meaning(kind, found, self.scope)
                return labels, rank, found.end()
        if not self.style or place:
            return None
        found = _BY_STYLE[self.style].match(text)
        if found is None or (self.words and found[1] not in self.words):
            return None
        kind = {"task": "task", "bracket": "task", "pod_word": "pod"}.get(self.style, "word")
        return [f"{kind}:{found[1]}"], None, found.end()


def _meaning(kind: str, found: re.Match[str], scope: str) -> tuple[list[str], int | None]:
    if kind == "rank":
        return [], int(found[1])
    if kind == "ray":
        where = f"@{found[4]}" if found[4] else ""
        rank = int(found[2]) if found[2] else None
        return [f"pid:{found[3]}{where}", f"actor:{found[1]}:{found[3]}{where}"], rank
    if kind == "mpi":
        return [f"task:{found[1]}"], None
    return [f"local:{scope}:{found[1]}" if kind == "local" else f"{kind}:{found[1]}"], None


def plain(raw: str) -> str:
    """A line without escape sequences, container runtimes' wrapping and what a progress bar overwrote."""
    text = raw[:LONGEST]
    if docker := _DOCKER.match(text):
        try:
            text = str(msgspec.json.decode(f'"{docker[1]}"'))
        except msgspec.DecodeError:
            text = docker[1]
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    text = text.rstrip("\r\n").rpartition("\r")[2]
    if stamp := _STAMP.match(text):
        text = text[stamp.end() :]
    return text


def reader_of(sample: Iterable[str], scope: str, who: Who) -> Reader:
    """A reader for a file with these lines: a prefix is one where most lines have it."""
    lines = [plain(raw) for raw, _ in zip(sample, range(_SAMPLE), strict=False)]
    lines = [line for line in lines if line.strip()]
    for style, pattern in _BY_STYLE.items():
        found = Counter(match[1] for line in lines if (match := pattern.match(line)))
        often = {word for word, count in found.items() if count > 1}
        enough = sum(found.values()) >= max(2, _SHARE * len(lines))
        if style == "task" and found and enough and max(map(int, found)) <= MOST_RANKS:
            return Reader(scope=scope, who=who, style=style)
        if style == "bracket" and len(found) > 1 and enough:
            return Reader(scope=scope, who=who, style=style)
        if (
            style in ("compose", "word", "pod_word")
            and often
            and sum(found[w] for w in often) >= _SHARE * len(lines)
        ):
            return Reader(scope=scope, who=who, style=style, words=frozenset(often))
    return Reader(scope=scope, who=who)


def identity_said(text: str) -> tuple[int, int | None] | None:
    """(global rank, world size) where a line's own words say them: `rank 3 of 4`."""
    if found := _GLOBAL_RANK.search(text):
        size = found[2] or ((of := _RANK_OF.search(text)) and of[1] == found[1] and of[2]) or None
        return int(found[1]), int(size) if size else None
    if (found := _RANK_OF.search(text)) and int(found[1]) < int(found[2]):
        return int(found[1]), int(found[2])
    return None
