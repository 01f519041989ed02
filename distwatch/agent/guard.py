"""Keeps distwatch's own failures away from the host process.

A hook that raises is switched off, with a message; the job continues. `BaseException` passes: a
KeyboardInterrupt belongs to the user.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from distwatch.state.events import HookFailed, Site

T = TypeVar("T")

log = logging.getLogger("distwatch")
transparent = False
"""Tests set it, so that they raise what production catches."""
_off: set[str] = set()
_tell: Callable[[HookFailed], None] | None = None
_OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_OUR_JOBS = os.path.join(_OURS, "demo", "")


def guard(hook: str, function: Callable[..., T], *args: object) -> T | None:
    """Calls `function`; a failure is reported once, switches the hook off, and gives None."""
    return None if hook in _off else guard_end(hook, function, *args)


def guard_end(hook: str, function: Callable[..., T], *args: object) -> T | None:
    """Like `guard`, for the end of a call: it also runs if the hook has been switched off since."""
    try:
        return function(*args)
    except Exception as error:
        if transparent:
            raise
        switch_off(hook, error)
        return None


def switch_off(hook: str, error: Exception) -> None:
    """Marks a hook as failed, in the journal and in the log, once."""
    if hook in _off:
        return
    _off.add(hook)
    text = f"{type(error).__name__}: {error}"
    log.warning("distwatch: %s failed and is switched off; the job continues (%s)", hook, text)
    if _tell is not None:
        _tell(HookFailed(hook=hook, error=text[:500]))


def tell_failures_to(record: Callable[[HookFailed], None]) -> None:
    """Journals failures from now on. The agent imports this module, not the other way round."""
    global _tell
    _tell = record


def is_off(hook: str) -> bool:
    """Whether that hook is switched off."""
    return hook in _off


def run_within(seconds: float, name: str, function: Callable[[], None]) -> None:
    """Runs what may wait for ever in a thread, which is left behind after that time."""
    thread = threading.Thread(target=function, name=f"distwatch {name}", daemon=True)
    with contextlib.suppress(RuntimeError):  # the process may not start another thread
        thread.start()
        thread.join(seconds)


def caller_site(skip: tuple[str, ...]) -> Site | None:
    """The innermost frame of the user's own code: outside distwatch and the `skip` folders."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if is_users(file, skip):
            return Site(file=file, line=frame.f_lineno, function=frame.f_code.co_name)
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def is_users(file: str, skip: tuple[str, ...]) -> bool:
    """Whether a source file is neither ours nor below one of the `skip` folders.

    Compares folders, never parts of a path: a user's project may be called torch or distwatch.
    """
    if file.startswith(_OURS):
        return file.startswith(_OUR_JOBS)
    return not file.startswith((*skip, "<frozen "))


def error_text(error: BaseException | None) -> str | None:
    """`TypeName: first line`, or None."""
    if error is None:
        return None
    message = str(error).strip()
    first = message.splitlines()[0] if message else ""
    return f"{type(error).__name__}: {first}"[:300]
