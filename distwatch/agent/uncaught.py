"""The exception that ends this process, in its journal."""

from __future__ import annotations

import os
from types import TracebackType

from distwatch.agent import core
from distwatch.agent.entry import enter_run
from distwatch.agent.exception_text import describe_uncaught
from distwatch.agent.limits import limits_of


def tell_uncaught(error: BaseException, traceback: TracebackType | None) -> None:
    """Records it, and the limit that it is about."""
    # The agent of a rank, or of a program that is no rank, may not have started yet.
    agent = core.current()
    if agent is None and enter_run(os.environ)[2] in ("rank", "other"):
        agent = core.start()
    if agent is None:
        return
    told = describe_uncaught(error, traceback)
    agent.record(told)
    for limit in limits_of(error, f"{told.type_name}: {told.message}", told.cause):
        agent.record(limit)
