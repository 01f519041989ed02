"""Journals an uncaught exception, also of a rank whose agent had no reason to start yet."""

from __future__ import annotations

import os
import traceback as tracebacks
from types import TracebackType

from distwatch.agent import core
from distwatch.agent.entry import enter_run
from distwatch.agent.guard import is_users
from distwatch.redaction import redact_text
from distwatch.state.events import ExceptionUncaught, Site

_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen")
LINES_KEPT = 60
MESSAGE_KEPT = 4000


def journal_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Writes the exception that ends the main thread. `SystemExit` is no exception to us."""
    if issubclass(kind, SystemExit):
        return
    agent = core.current()
    if agent is None and enter_run(os.environ)[2] == "rank":
        agent = core.start()
    if agent is None:
        return
    lines = [
        line
        for block in tracebacks.format_exception(kind, error, traceback)
        for line in block.rstrip("\n").split("\n")
    ]
    agent.record(
        ExceptionUncaught(
            type_name=_qualified(kind),
            message=redact_text(str(error))[:MESSAGE_KEPT],
            traceback=tuple(redact_text(line)[:500] for line in lines[-LINES_KEPT:]),
            site=_user_site(traceback),
        )
    )


def _qualified(kind: type[BaseException]) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _user_site(traceback: TracebackType | None) -> Site | None:
    """The innermost line of the user's own code; the innermost of all where there is none."""
    frames = list(tracebacks.walk_tb(traceback))
    own = [frame for frame in frames if _is_users(frame[0].f_code.co_filename)]
    if not frames:
        return None
    frame, line = (own or frames)[-1]
    return Site(file=frame.f_code.co_filename, line=line, function=frame.f_code.co_name)


def _is_users(file: str) -> bool:
    # Our own frames lie between the user's and torch's wherever a hook calls the original.
    return is_users(file, ()) and not any(part in file for part in _LIBRARY)
