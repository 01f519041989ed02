"""docs/findings.md is made from the table, and what it shows is what the checks say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from distwatch.state.codes import CODES
from tools.finding_samples import SAMPLES
from tools.findings_page import PAGE, SOURCE, code_pattern, found_codes, page

CHECKED = (SOURCE / "diagnosis", SOURCE / "state" / "agreement.py")
WORD = re.compile(r"(?<![\w./='-])[A-Za-z]{4,}(?![\w./=-])")
"""No name of a file or function, and no number."""
NUMBERED = {"rank", "ranks", "have", "wait", "waits"}
"""Words that follow from how many ranks there are."""


def checked_files() -> Iterator[Path]:
    for place in CHECKED:
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


@cache
def sentences() -> frozenset[tuple[str, ...]]:
    """The strings of the checks; of f-strings the parts between what is filled in."""
    found = set()
    for path in checked_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [p.value for p in parts if isinstance(p, ast.Constant)]
            said = "".join(text for text in texts if isinstance(text, str))
            # A single short word is a key as often as it is a sentence's.
            if " " in said.strip() or sum(map(str.isalpha, said)) >= 8:
                found.add(tuple(map(str, texts)))
    return frozenset(found)


def spans(parts: tuple[str, ...], text: str) -> list[tuple[int, int]]:
    """Where the parts stand in the text, one after the other; nothing where one of them does not."""
    found, end = [], 0
    for part in parts:
        begin = text.find(part, end)
        if begin < 0:
            return []
        end = begin + len(part)
        found.append((begin, end))
    return found


def words_of_nobody(sample: str) -> list[str]:
    """The words of a sample that are not filled in, and that no check says."""
    pieces = re.split(r"[{}]", sample)
    ends = [sum(map(len, pieces[:number])) for number in range(len(pieces) + 1)]
    known = [(ends[number], ends[number + 1]) for number in range(1, len(pieces), 2)]
    text = "".join(pieces)
    known += [span for parts in sentences() for span in spans(parts, text)]
    return [
        word[0]
        for word in WORD.finditer(text)
        if word[0] not in NUMBERED
        and not any(begin <= word.start() and word.end() <= end for begin, end in known)
    ]


def numbers(node: ast.AST) -> Iterator[float]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, float):
            yield inner.value


def given_confidences() -> Iterator[tuple[str, float, str]]:
    """(code, confidence, place) of each finding that a check makes with a literal code."""
    for path in checked_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            code, confidence = given.get("code"), given.get("confidence")
            if not isinstance(code, ast.Constant) or not isinstance(code.value, str):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            figures = list(numbers(confidence)) if confidence else []
            if called == "Finding" and confidence is None:
                figures = [1.0]
            for figure in figures:
                yield code.value, figure, f"{path.name}:{node.lineno}"


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == "\n".join(page()) + "\n", (
        "python tools/findings_page.py > docs/findings.md"
    )


def test_every_code_is_on_the_page_and_says_whether_a_check_finds_it() -> None:
    text = PAGE.read_text("utf-8")
    headings = re.findall(r"^### (\S+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(code.name for code in CODES)
    sections = dict(
        zip(headings, re.split(r"^### \S+\n", text, flags=re.MULTILINE)[1:], strict=True)
    )
    for name, section in sections.items():
        assert ("No check finds it yet." in section) == (name not in found_codes())


def test_every_code_that_is_found_has_a_sample_and_no_other() -> None:
    assert sorted(SAMPLES) == sorted(found_codes())


@pytest.mark.parametrize("code", SAMPLES)
def test_a_sample_is_a_sentence_of_the_source(code: str) -> None:
    assert not words_of_nobody(SAMPLES[code].summary)


def test_words_that_no_check_says_are_told_from_what_is_filled_in() -> None:
    told = "rank 1 loops {endlessly} at train.py:9 in spin"
    assert words_of_nobody(told) == ["loops", "spin"]


def test_the_page_gives_the_confidence_that_the_checks_give() -> None:
    given = list(given_confidences())
    assert len(given) > 40, "the scan reads the checks"
    for code, confidence, place in given:
        sample = SAMPLES[code]
        assert sample.low <= round(100 * confidence) <= sample.high, f"{code} at {place}"


def test_an_f_string_stands_for_the_codes_that_it_can_make() -> None:
    assert code_pattern("collective.*_mismatch").fullmatch("collective.op_mismatch")
    assert not code_pattern("collective.*_mismatch").fullmatch("collective.op_mismatch_x.y")
