"""What the latest looks tell of a main thread's place: whether it stays, where it goes below, whether it returns."""

from __future__ import annotations

from distwatch.observer.looks.stack_looks import SeenPlaces
from distwatch.state.events import Frame

MAIN = Frame(file="/job/train.py", function="main", line=5)
WORK = Frame(file="/job/train.py", function="work", line=9)
LIBRARY = "/venv/lib/python3.11/site-packages/torch/optim/adamw.py"


def step(line: int) -> Frame:
    return Frame(file=LIBRARY, function="step", line=line)


def test_lines_and_chains_below_a_place_are_counted() -> None:
    seen = SeenPlaces()
    for line in (10, 11, 11):
        told = seen.note((MAIN, WORK, step(line)))
    assert (told["looks"], told["settled_looks"], told["settled_lines"]) == (3, 3, 2)
    assert (told["settled_places"], told["settled_returns"]) == (1, 0)


def test_a_place_that_was_left_for_a_moment_is_still_known() -> None:
    seen = SeenPlaces()
    seen.note((MAIN, WORK, step(10)))
    other = Frame(file="/job/train.py", function="is_open", line=2)
    assert seen.note((MAIN, other))["settled_looks"] == 1
    told = seen.note((MAIN, WORK, step(11)))
    assert (told["settled_looks"], told["settled_lines"], told["settled_places"]) == (2, 2, 2)
    assert told["settled_returns"] == 0, "it was in another function, not in the loop itself"


def test_who_polls_is_seen_in_its_loop_too() -> None:
    seen = SeenPlaces()
    seen.note((MAIN, WORK))
    assert seen.note((MAIN,))["settled_returns"] == 0
    assert seen.note((MAIN, WORK))["settled_returns"] == 1
