"""What is said of an exception that ends a rank, whatever the user has made of it."""

from __future__ import annotations

import sys
import threading

import pytest

from distwatch.agent import exception_text
from distwatch.agent.exception_text import LINES_KEPT, MESSAGE_KEPT, describe_uncaught
from distwatch.state.events import ExceptionUncaught


def told(error: BaseException) -> ExceptionUncaught:
    try:
        raise error
    except BaseException as raised:
        return describe_uncaught(raised, raised.__traceback__)


def test_it_says_what_python_would_say() -> None:
    try:
        try:
            raise KeyError("step")
        except KeyError as cause:
            raise RuntimeError("bad batch\nin step 3") from cause
    except RuntimeError as raised:
        event = describe_uncaught(raised, raised.__traceback__)
    text = "\n".join(event.traceback)
    assert (event.type_name, event.message) == ("RuntimeError", "bad batch\nin step 3")
    assert text.index("KeyError: 'step'") < text.index("direct cause") < text.index("bad batch")
    assert '    raise RuntimeError("bad batch\\nin step 3") from cause' in text
    assert event.site is not None
    assert event.site.function == "test_it_says_what_python_would_say"
    assert event.cause == "KeyError: 'step'"


def test_what_cannot_say_its_text_is_still_told() -> None:
    class Raises(ValueError):
        def __str__(self) -> str:
            raise AttributeError("no")

    event = told(Raises())
    assert event.type_name.endswith("Raises")
    assert event.message == "<str() raises AttributeError>"


def test_a_text_that_never_comes_is_not_waited_for() -> None:
    release = threading.Event()

    class Blocks(ValueError):
        def __str__(self) -> str:
            release.wait()
            return "late"

    event = told(Blocks())
    (asking,) = [one for one in threading.enumerate() if one.name == "distwatch str"]
    release.set()
    asking.join()
    assert event.message == "<str() takes too long>"


def test_a_message_is_cut_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    redact = exception_text.redact_text

    def count(text: str, most: int) -> str:
        looked.append(most)
        return redact(text, most)

    monkeypatch.setattr(exception_text, "redact_text", count)
    event = told(ValueError("token=x " + "0-1-2-" * 1_000_000 + " the end"))
    assert max(looked) == MESSAGE_KEPT
    assert event.message.startswith("token=[redacted]")
    assert event.message.endswith("the end")
    assert len(event.message) <= MESSAGE_KEPT
    assert max(map(len, event.traceback)) <= 2 * MESSAGE_KEPT


def test_a_large_key_is_not_copied_to_be_told() -> None:
    event = told(KeyError("k" * 10_000_000))
    assert len(event.message) <= MESSAGE_KEPT


def test_a_long_chain_and_a_deep_traceback_are_told_at_their_ends() -> None:
    error: Exception = ValueError("0")
    for number in range(2000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer

    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise error

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 500)
    try:
        fall(400)
    except ValueError as raised:
        event = describe_uncaught(raised, raised.__traceback__)
    finally:
        sys.setrecursionlimit(limit)
    assert len(event.traceback) <= LINES_KEPT
    assert any("frames left out" in line for line in event.traceback)
    assert event.traceback[-1] == "ValueError: 1999"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_the_first_exceptions_of_a_group_are_told() -> None:
    group = ExceptionGroup("many", [ValueError(str(number)) for number in range(9)])  # noqa: F821
    event = told(group)
    assert event.message == "many (9 sub-exceptions)"
    assert "  | ValueError: 0" in event.traceback


def test_a_traceback_names_no_secret() -> None:
    event = told(ValueError("-----BEGIN PRIVATE KEY-----\nMIIsecret\nMIIsecret"))
    assert "MIIsecret" not in "\n".join(event.traceback[-3:]) + event.message


@pytest.mark.parametrize(
    "argument",
    [list(range(100_000)), {n: n for n in range(100_000)}, [[[*range(900)] for _ in range(900)]]],
    ids=["a list", "a dict", "lists in lists"],
)
def test_a_large_container_is_named_and_not_gone_through(argument: object) -> None:
    # Its repr is one call in C, which holds the GIL to its end: no thread can bound it.
    event = told(ValueError("shapes", argument))
    assert event.message == f"shapes, <{type(argument).__name__}>"


def test_a_small_container_is_told() -> None:
    event = told(ValueError("shapes", [1, (2, {"a": None})]))
    assert event.message == "('shapes', [1, (2, {'a': None})])"
