"""What may separate two sides, and how telling it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.names import View
from distwatch.diagnosis.why.places import Place
from distwatch.diagnosis.why.topics import Topic, is_about_rank, topic_of
from distwatch.diagnosis.why.trails import Trail

WEIGHT: Mapping[Topic, float] = {
    "rank": 8, "exception": 5, "randomness": 5, "time": 5, "files": 5, "environment": 5, "data": 4, "": 2,
}  # fmt: skip
OF_A_FAILURE = frozenset(("rank", "environment", "files", "randomness", "time"))
OF_A_TRY = ("try", "except", "finally")
_UNEVEN = 4.0
"""More for what keeps one side from a call that the other side makes more often."""
_DEEPER = 0.6


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A guard that may be what separates two sides, and how telling it is."""

    score: float
    guard: Guard
    about: Topic
    side: int
    place: Place
    other: Guard | None = None
    depth: int = 0
    """Functions between the one that both sides are in and its own."""
    registers: bool = False
    """The guard does not lead to a call of the function, but to the line that passes it on."""

    @property
    def order(self) -> float:
        """Of guards that tell as much, the outer one: who does not come in is not parted by what is inside."""
        return self.score - _DEEPER * self.depth


def scored(
    place: Place,
    guard: Guard,
    side: int,
    gone: Trail,
    beside: float,
    counts: tuple[int, int] | None,
    other: Guard | None = None,
) -> Iterator[Option]:
    """That guard, if it may separate the sides."""
    about, behind = _about(place.view, guard)
    if guard.is_over_literal:
        return
    weight = WEIGHT.get(about, 0.0)
    if guard.kind != "loop":
        # A loop over a rank's own data says less than a condition that skips the call.
        weight = max(weight, WEIGHT.get(behind, 0.0))
    if other is not None and not weight:
        weight = 1.0  # they did take two arms, whatever it depends on
    uneven = counts is not None and counts[side] > counts[1 - side]
    if guard.kind == "loop" and weight:
        # A rank that left it earlier may have left it by an exit: whose data it runs over says less than that.
        is_whose = uneven and not is_about_rank(guard.tests)
        weight = (min(weight, WEIGHT["data"]) if is_whose else weight) - 1.0
    # Whoever handles an exception of a `try` inside a loop goes on to the next round.
    skips = guard.kind == "try" and loop_around(place, guard) is not None
    if uneven and weight and (skips or guard.kind not in OF_A_TRY):
        weight += _UNEVEN
    if guard.kind == "no_sync" and weight:
        weight += 3.0
    weight += {"raise": -2.0, "return": -0.5, "break": -0.5, "continue": -0.5}.get(guard.kind, 0.0)
    if gone.raised and not {about, behind} & OF_A_FAILURE:
        return
    if weight > 0:
        yield Option(
            score=weight - beside, guard=guard, about=about, side=side, place=place, other=other
        )


def loop_around(place: Place, guard: Guard) -> Guard | None:
    """The innermost loop around a guard in its function."""
    before = place.guards[: place.guards.index(guard)]
    return next((one for one in reversed(before) if one.kind == "loop"), None)


def _about(view: View, guard: Guard) -> tuple[Topic, Topic]:
    if guard.kind in OF_A_TRY or guard.text.startswith("except"):
        return "exception", "exception"
    return topic_of(view, guard.tests)
