"""The pulse page and its ring of operations, read as an observer reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.agent.pulse import PulsePage
from distwatch.state.events import GroupProgress, Pulse
from distwatch.state.pulse import PAGE_SIZE, SLOTS, decode_operations, decode_page


@pytest.fixture
def page() -> Iterator[PulsePage]:
    path = f"/dev/shm/distwatch-test-pulse-{os.getpid()}"
    page = PulsePage(path)
    yield page
    os.unlink(path)


def content(page: PulsePage) -> bytes:
    return Path(page.path).read_bytes()


def test_the_page_holds_the_newest_pulse(page: PulsePage) -> None:
    assert decode_page(content(page)[:PAGE_SIZE]) is None
    for beat in (1, 2):
        page.write(
            Pulse(beat=beat, beat_ns=beat, groups=(GroupProgress(pg_name="0", enqueued=beat),))
        )
    pulse = decode_page(content(page)[:PAGE_SIZE])
    assert pulse == Pulse(beat=2, beat_ns=2, groups=(GroupProgress(pg_name="0", enqueued=2),))


def test_too_many_groups_keep_the_ones_that_moved_last(page: PulsePage) -> None:
    groups = tuple(
        GroupProgress(pg_name=f"group-with-a-long-name-{n}", enqueued=n, changed_ns=n)
        for n in range(500)
    )
    page.write(Pulse(beat=1, beat_ns=1, groups=groups))
    pulse = decode_page(content(page)[:PAGE_SIZE])
    assert pulse is not None
    assert {g.enqueued for g in pulse.groups} == set(range(500 - 64, 500))


def test_operations_tell_what_was_entered_and_left(page: PulsePage) -> None:
    ring = page.operations
    allreduce, group, floats = ring.name("allreduce"), ring.name("0"), ring.name("float32")
    token = ring.enter(100, allreduce, group, 1, 7, 64, floats, -1)
    ring.enter(200, ring.name("send"), group, -1, 8, 2, floats, 3)
    ring.leave(token, 150)
    first, second = decode_operations(content(page))
    assert (first.op, first.pg_name, first.seq, first.site) == ("allreduce", "0", 1, 7)
    assert (first.entered_ns, first.left_ns, first.numel, first.dtype) == (100, 150, 64, "float32")
    assert (second.op, second.left_ns, second.peer) == ("send", 0, 3)


def test_the_ring_keeps_the_newest_and_a_late_leave_spoils_nothing(page: PulsePage) -> None:
    ring = page.operations
    tokens = [ring.enter(n, 0, 0, n, 0, 0, 0, -1) for n in range(1, SLOTS + 11)]
    ring.leave(tokens[0], 999)
    operations = decode_operations(content(page))
    assert [operation.seq for operation in operations] == list(range(11, SLOTS + 11))
    assert all(operation.left_ns == 0 for operation in operations)


def test_a_forked_child_writes_nothing_into_the_ring(page: PulsePage) -> None:
    ring = page.operations
    ring.enter(1, 0, 0, 1, 0, 0, 0, -1)
    child = os.fork()
    if child == 0:
        ring.forget()
        ring.enter(2, ring.name("childs"), 0, 2, 0, 0, 0, -1)
        os._exit(0)
    os.waitpid(child, 0)
    assert [operation.seq for operation in decode_operations(content(page))] == [1]
    assert b"childs" not in content(page)
