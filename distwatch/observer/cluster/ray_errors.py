"""What a Ray error says of its cause: Ray puts the call first, and colours it."""

from __future__ import annotations

import re

_LENGTH = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def cause_of(error: BaseException) -> str:
    """Type and text of what a task raised, else the last line of what Ray says; never ''."""
    cause = getattr(error, "cause", None)
    told = cause if isinstance(cause, BaseException) else error
    lines = [line.strip() for line in _COLOURS.sub("", str(told)).splitlines() if line.strip()]
    kind = type(told).__name__
    if told is error and len(lines) > 1:
        return lines[-1][:_LENGTH]  # of a traceback, which names its error there
    return f"{kind}: {' '.join(lines)}"[:_LENGTH] if lines else kind
