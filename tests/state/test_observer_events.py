"""What an event says of itself, whoever reads it."""

from __future__ import annotations

import pytest

from distwatch.state.events import Frame, GroupProgress, StackTaken, ThreadStack
from distwatch.state.recorder_entries import Collective


def thread(name: str, number: int | None = None) -> ThreadStack:
    return ThreadStack(
        name=name, os_thread_id=number, frames=(Frame(function=name or "f", file="f.py"),)
    )


@pytest.mark.parametrize(
    ("threads", "first"),
    [
        ((thread("loader", 8), thread("MainThread", 9)), 1),
        ((thread("", 8), thread("", 7)), 1),  # its name was not read: it has the process's number
        ((thread("a"), thread("b")), 0),
    ],
)
def test_the_main_thread_comes_first(threads: tuple[ThreadStack, ...], first: int) -> None:
    taken = StackTaken(process="n-7.1", threads=threads)
    assert taken.main_thread(7) is threads[first]
    assert taken.main_first(7) == (threads[first], threads[1 - first])
    assert taken.main_frames(7) == threads[first].frames


def test_where_nobody_looked_there_is_no_main_thread() -> None:
    nothing = StackTaken(process="n-7.1", error="gone")
    assert (nothing.main_thread(7), nothing.main_first(7), nothing.main_frames(7)) == (None, (), ())


@pytest.mark.parametrize(
    ("enqueued", "completed", "expected"),
    [(3, 2, True), (3, 3, False), (1, -1, True), (2, -1, False), (-1, -1, False), (0, 0, False)],
)
def test_a_collective_is_in_flight_where_its_end_would_be_seen(
    enqueued: int, completed: int, expected: bool
) -> None:
    assert GroupProgress(pg_name="0", enqueued=enqueued, completed=completed).in_flight is expected


@pytest.mark.parametrize(
    ("retired", "state", "expected"),
    [(True, "scheduled", True), (False, "completed", True), (False, "scheduled", False), (False, "started", False)],
)  # fmt: skip
def test_gloo_retires_what_nccl_completes(retired: bool, state: str, expected: bool) -> None:
    assert Collective(pg_name="0", seq=1, op="x", retired=retired, state=state).over is expected
