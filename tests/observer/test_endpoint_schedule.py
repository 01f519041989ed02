"""When a place of meeting is looked at, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from distwatch.observer.looks.endpoint_monitor import _expected, _is_due, is_on_its_way
from distwatch.probes.store_keys import Expected
from distwatch.state.events import InitPlanned, ProcessStarted
from distwatch.state.identity import Identity
from distwatch.state.model import Process, Step


def waiting(*steps: Step) -> Process:
    return Process(key="h-1.1", steps={step.step: step for step in steps})


def step(number: int, name: str, started_s: float, **more: Any) -> Step:
    started_ns = int(started_s * 1e9)
    return Step(
        step=number, name=name, parent=None, deadline_s=more.pop("deadline_s", None), label="",
        site=None, thread="", started_ns=started_ns, moved_ns=started_ns, **more,
    )  # fmt: skip


def due_at(process: Process, begun_s: float, until_s: float = 400.0) -> float:
    """When the look after one that began at `begun_s` is due."""
    tenths = range(int(begun_s * 10) + 1, int(until_s * 10))
    return next(t / 10 for t in tenths if _is_due(int(begun_s * 1e9), [process], t * 100_000_000))


def test_looks_are_frequent_at_first_and_fall_on_the_eve_of_a_deadline() -> None:
    init = step(1, "init_process_group", 100.0, deadline_s=60.0)
    assert due_at(waiting(init), 0.0) == 100.5
    assert due_at(waiting(init), 110.0) == 112.0
    assert due_at(waiting(init), 130.0) == 140.0
    assert due_at(waiting(init), 150.0) == 159.0
    arrival = step(2, "arrival", 131.0, deadline_s=5.0)
    assert due_at(waiting(init, arrival), 130.0) == 135.0


def test_a_failure_is_looked_at_when_it_is_known_yet_not_in_a_loop() -> None:
    failed = step(1, "init_process_group", 100.0, ended_ns=134_000_000_000, error="reset by peer")
    assert due_at(waiting(failed), 133.0) == 134.0
    assert due_at(waiting(failed), 133.9) == 134.9


@pytest.mark.parametrize(
    ("ended_s", "error", "now_s", "on_its_way"),
    [
        (None, None, 4000, True),
        (110, "reset by peer", 120, True),
        (110, "reset by peer", 150, False),
        (110, None, 111, False),
    ],
    ids=["waits", "has just failed", "has given up", "is through"],
)
def test_who_is_on_its_way(
    ended_s: int | None, error: str | None, now_s: int, on_its_way: bool
) -> None:
    ended_ns = None if ended_s is None else ended_s * 1_000_000_000
    process = waiting(step(1, "init_process_group", 100.0, ended_ns=ended_ns, error=error))
    assert is_on_its_way(process, now_s * 1_000_000_000) is on_its_way


def test_the_world_that_is_looked_for_is_the_newest() -> None:
    def rank(restart: int, number: int, method: str = "env") -> Process:
        planned = InitPlanned(number=number, world_size=4, method=method, endpoint="h:1")
        identity = Identity(restart=restart, agent_store=True)
        started = ProcessStarted(
            host="h", pid=1, start_ticks=1, ppid=0, role="rank", identity=identity
        )
        return Process(key="h-1.1", started=started, planned=planned)

    assert _expected([rank(1, 1), rank(0, 2)]) == Expected(
        world_size=4, attempt=1, number=1, own_store=False, kept_store=True
    )
    assert _expected([rank(0, 1), rank(0, 2, "store")]) == Expected(
        world_size=4, attempt=0, number=2, own_store=True, kept_store=True
    )
    assert _expected([]) is None
