"""Whether a side is elsewhere only because it is held up: it has yet to come to a line, or to come there again."""

from __future__ import annotations

from distwatch.diagnosis.facts.stack_calls import BACKWARD, CALLS
from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.options import OF_A_TRY
from distwatch.diagnosis.why.places import Place
from distwatch.diagnosis.why.trails import Trail

_COMMUNICATES = CALLS | {BACKWARD}
Counts = tuple[int, int] | None


def has_yet_to_come(gone: Trail, yours: Place | None, guard: Guard) -> bool:
    """Whether the other side is held up before it: who is in a call there may have passed by it a round ago."""
    return not guard.is_exit and _is_held_up(gone, yours, guard.line)


def has_yet_to_call(gone: Trail, here: tuple[Place, Place | None], counts: Counts) -> bool:
    """Whether the other side is held up before the line from which this one goes deeper; it is short of one call."""
    mine, yours = here
    return _is_held_up(gone, yours, mine.step.line) and _is_short_of_one(counts)


def may_come_again(
    gone: Trail, here: tuple[Place, Place | None], guard: Guard, counts: Counts, *, deeper: bool
) -> bool:
    """Whether the other side is held up behind a `try` or retry, in the same loop, and has ended it normally.

    Args:
        counts: of this side and of the other one.
        deeper: the `try` is in a function that is called from this side's line.
    """
    mine, yours = here
    if guard.kind not in OF_A_TRY or yours is None or not _is_short_of_one(counts):
        return False
    loops = [one.node for one in mine.guards if one.kind == "loop"]
    if not any(one.kind == "loop" and one.node in loops for one in yours.guards):
        return False
    end = mine.step.line if deeper else getattr(guard.node, "end_lineno", 0)
    return yours.step.line > end and not _COMMUNICATES.intersection(gone.called)


def _is_held_up(gone: Trail, yours: Place | None, line: int) -> bool:
    if yours is None or line <= yours.step.line:
        return False
    return not _COMMUNICATES.intersection(gone.called)


def _is_short_of_one(counts: Counts) -> bool:
    """Whether the other side has made all of this side's calls but the last one, or nothing is known of that."""
    return counts is None or counts[0] - counts[1] <= 1
