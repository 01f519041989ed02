"""The table of step kinds and the statuses of ranks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import distwatch
from distwatch.state.codes import FAMILIES
from distwatch.state.statuses import LETTERS, STATUSES, UNOBSERVED, Tone, status_of
from distwatch.state.steps import DEADLINES, GROUP, INIT, KINDS, LOAD, base_name, kind_of

SOURCE = Path(distwatch.__file__).parent


def begun_steps() -> Iterator[tuple[str, str, str]]:
    """(name, kind, place) of every step that the source begins under a name and kind of its own."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            kinds = [k.value for k in node.keywords if k.arg == "kind"]
            if node.func.attr != "begin_step" or not node.args or not kinds:
                continue
            name, kind = node.args[0], kinds[0]
            if isinstance(name, ast.Constant) and isinstance(kind, ast.Name):
                yield str(name.value), kind.id, f"{path.name}:{node.lineno}"


def test_every_step_that_the_source_begins_has_the_kind_whose_deadline_it_is_given() -> None:
    begun = list(begun_steps())
    assert len(begun) >= 4, "the scan reads the source"
    for name, kind, place in begun:
        # The phases of a load have names of their own.
        assert (kind_of(name) or LOAD).name.upper() == kind, f"{name} at {place}"


def test_a_step_is_of_one_kind_with_or_without_its_number() -> None:
    names = [name for kind in KINDS for name in (*kind.calls, *kind.parts)]
    assert len(set(names)) == len(names)
    assert all(base_name(name) == name for name in names)
    assert kind_of("new_group #3") is kind_of("new_group (members only)") is GROUP
    assert kind_of("store") is INIT
    assert kind_of("store barrier") is GROUP
    assert kind_of("shards") is None


def test_a_kind_is_whole() -> None:
    assert DEADLINES == {"init": 120.0, "group": 120.0, "load": 900.0, "collective": 300.0}
    for kind in KINDS:
        assert set(kind.supervised) <= set(kind.calls)
        assert kind.family in FAMILIES
        assert LETTERS[kind.status] == kind.letter


def test_a_status_is_one_word_with_a_letter_of_its_own() -> None:
    assert len(set(LETTERS.values())) == len(STATUSES)
    assert all(word.isalpha() and len(letter) == 1 for word, letter in LETTERS.items())
    assert status_of("a word of another version") is UNOBSERVED


def test_the_most_urgent_status_sorts_first() -> None:
    by_urgency = sorted(STATUSES.values(), key=lambda status: status.urgency)
    assert [status.word for status in by_urgency] == (
        "failed killed stopped frozen waiting unobserved starting initializing grouping loading "
        "running idle exited".split()
    )
    assert {status.tone for status in by_urgency} == set(get_args(Tone))
