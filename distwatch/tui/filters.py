"""The filter language: `state=waiting pg=dp3 host~node01 rank=0-3 age>30s`, or free text."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.bounds import whole_number
from distwatch.state.statuses import LETTERS
from distwatch.tui.picture import Picture

FIELDS = ("state", "pg", "host", "rank", "age", "pid")
_TERM = re.compile(r"^([A-Za-z_]+)(!=|=|~|>|<)(.*)$")
_AGE = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|min|h)?$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class FilterInvalid(ValueError):
    """The filter cannot be read; the message says which part, and what works instead."""


Test = Callable[[RankStatus, tuple[str, ...]], bool]
"""Takes a rank, and the names and descriptions of its process groups."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed filter. The empty one accepts everything."""

    text: str = ""
    tests: tuple[Test, ...] = ()
    pg_tests: tuple[Callable[[str], bool], ...] = ()
    words: tuple[str, ...] = ()

    def selected(self, picture: Picture) -> frozenset[int] | None:
        """Ranks that every term accepts; None where no term is about ranks."""
        if not self.tests:
            return None
        names = _group_names(picture)
        return frozenset(
            status.global_rank
            for status in picture.rank_statuses
            if all(test(status, names.get(status.global_rank, ())) for test in self.tests)
        )

    def has_words(self, text: str) -> bool:
        """Whether a line's text contains all free words."""
        folded = text.casefold()
        return all(word in folded for word in self.words)


def _group_names(picture: Picture) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    for group in picture.groups:
        for member in group.members:
            names[member] = (*names.get(member, ()), group.pg_name, group.pg_desc)
    return names


def parse_filter(text: str) -> Filter:
    """Reads a filter.

    Raises:
        FilterInvalid: a term has no meaning as written.
    """
    tests: list[Test] = []
    pg_tests: list[Callable[[str], bool]] = []
    words: list[str] = []
    for part in text.split():
        found = _TERM.match(part)
        if found is None:
            words.append(part.casefold())
            continue
        field, sign, value = found[1].casefold(), found[2], found[3]
        if field not in FIELDS:
            raise FilterInvalid(
                f"{field!r} is not a field; use {', '.join(FIELDS)}, or plain words"
            )
        if not value:
            raise FilterInvalid(f"{part!r} has no value: what should {field} be?")
        tests.append(_READERS[field](sign, value))
        if field == "pg":
            pg_tests.append(_text_test(field, sign, value))
    return Filter(
        text=text.strip(), tests=tuple(tests), pg_tests=tuple(pg_tests), words=tuple(words)
    )


def parse_ranks(text: str) -> frozenset[int]:
    """`0-2,5` → {0, 1, 2, 5}.

    Raises:
        FilterInvalid: it is not a set of ranks.
    """
    ranks: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = whole_number(first), whole_number(last if dash else first)
        if low is None or high is None:
            raise FilterInvalid(f"{part!r} is not a rank; write 3, 0-3 or 0-3,7")
        if high < low or high - low > 1_000_000:
            raise FilterInvalid(f"{part!r} is an empty range: the smaller rank comes first")
        ranks.update(range(low, high + 1))
    return frozenset(ranks)


def _text_test(field: str, sign: str, value: str) -> Callable[[str], bool]:
    wanted = value.casefold()
    if sign == "=":
        return lambda text: text.casefold() == wanted
    if sign == "!=":
        return lambda text: text.casefold() != wanted
    if sign == "~":
        return lambda text: wanted in text.casefold()
    raise FilterInvalid(
        f"{field} is text: use {field}={value}, {field}!={value} or {field}~{value}"
    )


def _state(sign: str, value: str) -> Test:
    if sign in ("=", "!=") and value.casefold() not in LETTERS:
        by_letter = {letter: word for word, letter in LETTERS.items()}
        if value not in by_letter:
            raise FilterInvalid(f"{value!r} is not a state; the states are {', '.join(LETTERS)}")
        value = by_letter[value]
    test = _text_test("state", sign, value)
    return lambda status, _: test(status.word)


def _pg(sign: str, value: str) -> Test:
    if sign == "!=":
        same = _text_test("pg", "=", value)
        return lambda _, groups: not any(map(same, groups))
    test = _text_test("pg", sign, value)
    return lambda _, groups: any(map(test, groups))


def _host(sign: str, value: str) -> Test:
    test = _text_test("host", sign, value)
    return lambda status, _: test(status.host)


def _rank(sign: str, value: str) -> Test:
    if sign in (">", "<"):
        limit, above = whole_number(value), sign == ">"
        if limit is None:
            raise FilterInvalid(f"{value!r} is not a rank; write rank{sign}3")
        return lambda s, _: (s.global_rank > limit) == above and s.global_rank != limit
    if sign == "~":
        raise FilterInvalid(f"rank is a number: use rank={value}, rank=0-3, rank>3")
    ranks, inside = parse_ranks(value), sign == "="
    return lambda status, _: (status.global_rank in ranks) == inside


def _age(sign: str, value: str) -> Test:
    found = _AGE.match(value.casefold())
    if found is None or sign not in (">", "<"):
        raise FilterInvalid(f"{value!r}: write age>30s, age<2m or age>1h")
    limit, above = float(found[1]) * _UNITS[found[2] or "s"], sign == ">"

    def test(status: RankStatus, _: tuple[str, ...]) -> bool:
        # An age that was not observed is neither above nor below any value.
        age = status.since_s
        return age is not None and (age > limit if above else age < limit)

    return test


def _pid(sign: str, value: str) -> Test:
    pid = whole_number(value)
    if sign not in ("=", "!=") or pid is None:
        raise FilterInvalid(f"{value!r}: write pid=12345")
    return lambda status, _: (status.pid == pid) == (sign == "=")


_READERS: dict[str, Callable[[str, str], Test]] = {
    "state": _state,
    "pg": _pg,
    "host": _host,
    "rank": _rank,
    "age": _age,
    "pid": _pid,
}
