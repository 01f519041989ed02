"""What an agent sees of its own process's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from distwatch.agent import own_threads
from distwatch.agent.own_threads import ABSENT_LOOKS, OwnThreads
from distwatch.state import events as ev


@pytest.fixture
def told() -> list[ev.Event]:
    return []


@pytest.fixture
def threads(told: list[ev.Event]) -> Iterator[OwnThreads]:
    before = threading.excepthook
    yield OwnThreads(told.append)
    threading.excepthook = before


def test_a_healthy_process_tells_nothing(threads: OwnThreads, told: list[ev.Event]) -> None:
    for _ in range(3):
        threads.look()
    assert not told


def test_an_exception_that_stays_is_told_once(threads: OwnThreads, told: list[ev.Event]) -> None:
    try:
        raise ValueError("loss is not finite")
    except ValueError:
        for _ in range(4):
            threads.look()
    (held,) = told
    assert isinstance(held, ev.ExceptionHeld)
    assert (held.type_name, held.message, held.times) == ("ValueError", "loss is not finite", 1)
    assert held.site
    assert held.site.function == "test_an_exception_that_stays_is_told_once"
    threads.look()
    threads.look()
    assert isinstance(told[-1], ev.ExceptionPassed)


def test_an_exception_that_comes_again_and_again(threads: OwnThreads, told: list[ev.Event]) -> None:
    kept = []  # so that no two of them have one address
    for number in range(8):
        try:
            raise MemoryError("no room")
        except MemoryError as error:
            kept.append(error)
            threads.look()
        if number % 2:
            threads.look()  # between two of them there is none
    assert [event.times for event in told if isinstance(event, ev.ExceptionHeld)] == [2, 4, 8]
    for _ in range(ABSENT_LOOKS + 1):
        threads.look()
    assert isinstance(told[-1], ev.ExceptionPassed)


def test_a_retry_without_a_pause_is_seen_by_looks_in_a_row(
    threads: OwnThreads, told: list[ev.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round's exception may lie where the last one lay: in between there is none."""
    here = [MemoryError("no room")]
    seen = iter([None, *here, None, *here, *here, None] * 4)
    monkeypatch.setattr(own_threads, "_current_exception", lambda thread: next(seen))
    monkeypatch.setattr(own_threads, "CLOSE_PAUSE_S", 0.0)
    threads.look_closely()
    assert [event.times for event in told if isinstance(event, ev.ExceptionHeld)] == [2, 4]


def test_how_a_loop_polls_is_no_failure(threads: OwnThreads, told: list[ev.Event]) -> None:
    try:
        raise BlockingIOError
    except BlockingIOError:
        threads.look()
        threads.look()
    assert not told


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_dies_also_under_a_hook_of_the_program(
    threads: OwnThreads, told: list[ev.Event]
) -> None:
    seen: list[str] = []

    def die() -> None:
        raise OSError(24, "Too many open files")

    threads.look()
    ours = threading.excepthook

    def chained(args: threading.ExceptHookArgs) -> None:
        seen.append(args.exc_type.__name__)
        ours(args)

    threading.excepthook = chained
    threads.look()
    dying = threading.Thread(target=die, name="prefetch")
    dying.start()
    dying.join()
    assert seen == ["OSError"]
    died, limit = told
    assert isinstance(died, ev.ThreadDied)
    assert (died.thread, died.type_name) == ("prefetch", "OSError")
    assert died.site
    assert died.site.function == "die"
    assert isinstance(limit, ev.LimitReached)
    assert limit.what == "open files"
    assert limit.used == limit.limit


def test_a_hook_that_is_put_back_makes_the_chain_no_longer(threads: OwnThreads) -> None:
    threads.look()
    ours = threading.excepthook
    for _ in range(3):
        threading.excepthook = lambda args: None
        threads.look()
        threading.excepthook = ours
        threads.look()
    assert threading.excepthook is ours
