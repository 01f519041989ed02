"""Work beside the event loop: calls that may block for ever, and tasks that must end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

WITHIN_S = 2.0
CANCEL_AGAIN_S = 0.5


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until each has ended in whatever way.

    Once is not enough: before Python 3.12 `asyncio.wait_for` loses a cancellation that comes as
    its awaitable finishes (python/cpython#86296), and a looping task then continues.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # retrieved, or asyncio warns that it never was


async def wait_for_any(*events: asyncio.Event, within_s: float) -> None:
    """Returns when one of the events is set, at the latest after `within_s`."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Closes a connection, however it ends."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def in_background(
    function: Callable[..., T], *arguments: object, within_s: float | None = WITHIN_S
) -> T:
    """Calls a blocking function in a daemon thread, which is left behind if it hangs.

    Args:
        within_s: the time limit in seconds; None: no limit.

    Raises:
        asyncio.TimeoutError: it did not return in time.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value, problem = None, None
        try:
            value = function(*arguments)
        except Exception as error:
            problem = error
        # The loop may be closed by the time a hanging call returns.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, problem)

    threading.Thread(target=work, name="distwatch look", daemon=True).start()
    return await asyncio.wait_for(result, within_s)
