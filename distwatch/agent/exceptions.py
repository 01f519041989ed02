"""Journals an uncaught exception, also of a rank whose agent had no reason to start yet."""

from __future__ import annotations

import os
from types import TracebackType

from distwatch.agent import core
from distwatch.agent.entry import enter_run
from distwatch.agent.exception_text import describe_uncaught


def journal_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Writes the exception that ends the main thread. `SystemExit` is no exception to us."""
    if issubclass(kind, SystemExit):
        return
    agent = core.current()
    if agent is None and enter_run(os.environ)[2] == "rank":
        agent = core.start()
    if agent is not None:
        agent.record(describe_uncaught(error, traceback))
