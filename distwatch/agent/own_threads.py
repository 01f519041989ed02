"""What the process's own threads come to: exceptions that nobody sees, and a main thread that has ended."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from distwatch.agent.exception_text import describe_held, describe_uncaught
from distwatch.agent.guard import guard
from distwatch.agent.limits import limits_of
from distwatch.state import events as ev

ABSENT_LOOKS = 20
"""At two looks a second: who tries again after a pause has no exception meanwhile."""
CLOSE_LOOKS, CLOSE_PAUSE_S = 16, 0.003
_POLLS = frozenset(
    "Empty Full StopIteration StopAsyncIteration GeneratorExit BlockingIOError InterruptedError "
    "TimeoutError TimeoutExpired SystemExit KeyboardInterrupt QueueEmpty QueueFull".split()
)
"""Exceptions by which a loop that polls learns that there is nothing yet."""
_THREADS_NAMED = 8
_OURS = "__distwatch_told__"
"""Marks our hook, and a thread whose end was told: the hooks of several programs may form a chain."""


class OwnThreads:
    """Looks at the threads of this process at each beat; about 2 µs where there is nothing to see."""

    def __init__(self, record: Callable[[ev.Event], None]) -> None:
        self._record = record
        self._main = threading.main_thread()
        self._main_ended = False
        self._held: ev.ExceptionHeld | None = None
        self._told: ev.ExceptionHeld | None = None
        self._seen = 0
        self._absent = 0
        self._hook: Callable[[Any], object] | None = None
        self._previous: Callable[[Any], object] = threading.excepthook

    def look(self) -> None:
        """Records what has changed since the last look."""
        self._chain_hook()
        self._look_at_main()
        self._look_at_exception()

    def look_closely(self) -> None:
        """Several looks in a row: a loop that tries again without a pause handles its exception for microseconds."""
        for _ in range(CLOSE_LOOKS):
            error = _current_exception(self._main.ident)
            if error is None:
                self._seen = 0  # the next one is another one, also in the same place of memory
            elif id(error) != self._seen:
                self._look_at_exception()
            time.sleep(CLOSE_PAUSE_S)

    def _chain_hook(self) -> None:
        """Python calls one hook for all threads, and a program may set its own at any time."""
        previous = threading.excepthook
        if previous is self._hook or _OURS in getattr(previous, "__dict__", {}):
            return  # a program that puts back what it found must not make the chain longer

        def excepthook(args: Any) -> None:
            guard("thread exceptions", self._thread_died, args)
            previous(args)

        excepthook.__dict__[_OURS] = True
        self._previous = previous
        self._hook = threading.excepthook = excepthook

    def unchain_hook(self) -> None:
        """Takes our hook out, unless the program has set its own over it since."""
        if self._hook is not None and threading.excepthook is self._hook:
            threading.excepthook = self._previous

    def _thread_died(self, args: Any) -> None:
        # A program's hook may call the one that it replaced, and that one is ours, too.
        error = args.exc_value
        if args.thread is None or error is None or getattr(args.thread, _OURS, False):
            return
        setattr(args.thread, _OURS, True)
        told = describe_uncaught(error, args.exc_traceback)
        self._record(
            ev.ThreadDied(
                thread=str(args.thread.name)[:100],
                type_name=told.type_name,
                message=told.message,
                traceback=told.traceback,
                site=told.site,
            )
        )
        for limit in limits_of(error, f"{told.type_name}: {told.message}", told.cause):
            self._record(limit)

    def _look_at_main(self) -> None:
        # Executors' threads are waited for before the main thread counts as ended.
        over = getattr(threading, "_SHUTTING_DOWN", False) or not self._main.is_alive()
        if over and not self._main_ended:
            self._main_ended = True
            kept = [t for t in threading.enumerate() if not t.daemon and t is not self._main]
            names = tuple(str(thread.name)[:100] for thread in kept[:_THREADS_NAMED])
            self._record(ev.MainEnded(threads=names))

    def _look_at_exception(self) -> None:
        error = _current_exception(self._main.ident)
        if error is None or type(error).__name__ in _POLLS:
            self._see_nothing()
            return
        self._absent = 0
        seen, self._seen = self._seen, id(error)
        held = self._held
        described = describe_held(error)
        if held is None or (held.type_name, held.site) != (described.type_name, described.site):
            self._held = msgspec.structs.replace(described, since_ns=time.monotonic_ns())
        elif seen == id(error):
            self._tell(held, error, known=held.times == 1)
        else:
            self._held = msgspec.structs.replace(held, times=held.times + 1)
            times = self._held.times
            self._tell(self._held, error, known=not times & (times - 1))

    def _tell(self, held: ev.ExceptionHeld, error: BaseException, *, known: bool) -> None:
        if known and self._told != held:
            self._told = held
            self._record(held)
            said = f"{held.type_name}: {held.message}"
            for limit in limits_of(error, said, ended=False):
                self._record(limit)

    def _see_nothing(self) -> None:
        self._seen = 0
        if self._held is None:
            return
        self._absent += 1
        # One that was seen once and is gone was handled; one of a loop comes again.
        if self._absent > (ABSENT_LOOKS if self._held.times > 1 else 1):
            if self._told is not None:
                self._record(ev.ExceptionPassed())
            self._held = self._told = None


def _current_exception(thread: int | None) -> BaseException | None:
    """What that thread handles now; None also where this Python does not tell it.

    Python 3.12 gives the exception, earlier ones three values.
    """
    current: Callable[[], dict[int, Any]] = getattr(sys, "_current_exceptions", dict)
    found: Any = current().get(thread or 0)
    if isinstance(found, tuple):
        found = found[1] if len(found) > 1 else None
    return found if isinstance(found, BaseException) else None
