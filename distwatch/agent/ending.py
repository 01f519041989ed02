"""The end of a rank that was asked to end itself when it hangs: DISTWATCH_ON_HANG=abort."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from distwatch.agent.core import Agent
from distwatch.state.events import GAVE_UP, ProcessEnding

EXIT_CODE = 75
"""EX_TEMPFAIL: whoever restarts the job may try again."""


def end_rank(agent: Agent, why: object) -> NoReturn:
    """Leaves everything on record, says why, and ends the process at once.

    The hanging call cannot be left in any other way, so nothing of Python's own exit runs.
    """
    agent.dump("abort")
    agent.record(ProcessEnding(reason=f"{GAVE_UP}: {why}"[:500]))
    agent.beat()
    print(
        f"distwatch: {why}\ndistwatch: {GAVE_UP} ends pid {os.getpid()} with exit code {EXIT_CODE}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_CODE)
