"""Enters the run once this process has lived for two seconds: a shorter one leaves nothing behind.

The wait is a thread of `_thread`, since the module threading costs a bare interpreter a millisecond. It
is away while the process forks: beside a second thread, Python 3.12 and newer warn of a fork.
"""

from __future__ import annotations

import _thread
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ENTER_AFTER_S = 2.0
CONSENT_AFTER_S = 6.0
"""After the entry: by then an observer that was started has come up and may need consent to trace."""
RAY_TRIES = 30
"""How often a program that has loaded Ray is asked for its job, ENTER_AFTER_S apart."""
AWAY_WITHIN_S = 1.0

_due: list[tuple[float, Callable[[], None]]] = []
"""What is still to be done: when (monotonic seconds), and the call. It empties from the front."""
_wake: _thread.LockType | None = None
"""Held while the thread waits; releasing it sends the thread away."""
_away: _thread.LockType | None = None
"""Held while there is a thread."""
_registered = False
_follows_forks = False


def stand_by(*, follow_forks: bool) -> None:
    """Begins the wait in this process.

    Args:
        follow_forks: whether forked children are to enter the run by themselves; those of a rank are
            seen from outside, as its children.
    """
    global _registered, _follows_forks
    _follows_forks = follow_forks
    if not _registered:
        _registered = True
        os.register_at_fork(before=_send_away, after_in_parent=_wait_on, after_in_child=_begin_anew)
    _begin()


def stand_down() -> None:
    """Ends the wait: distwatch leaves this process."""
    _send_away()
    _due.clear()


def _begin() -> None:
    now = time.monotonic()
    _due[:] = [(now + ENTER_AFTER_S, _enter), (now + CONSENT_AFTER_S, _watch_observer)]
    _wait_on()


def _begin_anew() -> None:
    global _wake, _away
    _wake = _away = None
    _due.clear()
    if _follows_forks:
        _begin()


def _wait_on() -> None:
    global _wake, _away
    if not _due or _wake is not None:
        return
    wake, away = _thread.allocate_lock(), _thread.allocate_lock()
    wake.acquire()
    away.acquire()
    _wake, _away = wake, away
    try:
        _thread.start_new_thread(_wait, (wake, away))
    except RuntimeError:  # no more threads are allowed here
        _wake = _away = None


def _wait(wake: _thread.LockType, away: _thread.LockType) -> None:
    try:
        while _due:
            if wake.acquire(timeout=max(0.0, _due[0][0] - time.monotonic())):
                return
            _, call = _due.pop(0)
            call()
    except Exception as error:
        from distwatch.visible_text import say

        _due.clear()
        say(f"process {os.getpid()} is not in the run: {error}")
    finally:
        away.release()


def _send_away() -> None:
    global _wake, _away
    if _wake is None or _away is None:
        return
    _wake.release()
    # It waits, or is in the middle of an import: a lock of a module must not be copied into a child.
    _away.acquire(timeout=AWAY_WITHIN_S)
    _wake = _away = None


def _enter(tries: int = RAY_TRIES) -> None:
    from distwatch.agent.entry import enter_run

    environ = dict(os.environ)
    if "ray" in sys.modules and not environ.get("DISTWATCH_RUN_ID"):
        # A driver belongs to the run of its job's workers, which has a name once Ray has a job.
        from distwatch.launch import connected_ray_run_name

        if not (name := connected_ray_run_name()) and tries:
            _due.insert(0, (time.monotonic() + ENTER_AFTER_S, lambda: _enter(tries - 1)))
            return
        environ["DISTWATCH_RUN_ID"] = name
    enter_run(environ)
    _watch_observer()


def _watch_observer() -> None:
    """Starts the run's observer where there is none, and lets it trace; an agent does that by itself."""
    if (core := sys.modules.get("distwatch.agent.core")) is not None:
        current = getattr(core, "current", None)
        # The main thread may be in the middle of that import: then an agent is about to start.
        if current is None or current() is not None:
            return
    from distwatch.agent.entry import entered_run
    from distwatch.agent.observer_start import ObserverStart
    from distwatch.settings import read_settings

    if (folder := entered_run()) is not None:
        ObserverStart(folder, read_settings()).ensure()
