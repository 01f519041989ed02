"""A task that is to end does, also where Python loses its cancellation."""

from __future__ import annotations

import asyncio

from distwatch.observer.background import end_tasks


async def test_a_lost_cancellation_is_said_again() -> None:
    lost = 0

    async def goes_on() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost:
                    raise
                lost += 1

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await end_tasks(task)
    assert lost == 1
    assert task.cancelled()


async def test_one_that_has_failed_is_no_failure_of_the_end() -> None:
    async def fails() -> None:
        raise ValueError("late")

    task = asyncio.create_task(fails())
    await end_tasks(task)
    assert task.done()
    await end_tasks()
