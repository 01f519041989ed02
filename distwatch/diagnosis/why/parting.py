"""Where two trails part, and what in the source separates them.

Of everything that guards one line and not the other, the most telling counts: a condition about the rank
before one about data, a branch before a loop, and nothing that is the same on every rank.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import msgspec

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.options import OF_A_FAILURE, OF_A_TRY, Option, loop_around, scored
from distwatch.diagnosis.why.places import Place, Sources, places_of, registered_of
from distwatch.diagnosis.why.rank_tests import is_ruled_out
from distwatch.diagnosis.why.rounds import has_yet_to_call, has_yet_to_come, may_come_again
from distwatch.diagnosis.why.topics import Topic, is_about_rank
from distwatch.diagnosis.why.trails import Step, Trail

_BRANCHES = frozenset(("branch", "conditional", "short_circuit", "match"))
_SPLIT = 6.0
_BESIDE = 4.0
"""Less for what guards the side that is behind, or does not stand in the way of the other."""


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """What separates two sides, and the line of each side in that function.

    Attributes:
        guard: leads its `taker` (0 or 1) to that side's line, or takes it away before the other's.
        is_split: the other side is in another arm of the same construct.
        steps: each side's line; None for a side that has ended.
        function: the one in which the guard is.
    """

    guard: Guard
    about: Topic
    taker: int
    is_split: bool
    file: str
    function: str
    steps: tuple[Step | None, Step | None]
    calls: tuple[str, str]
    other: Guard | None = None
    """Of a split, the other side's arm."""
    around: Guard | None = None
    """A loop around the one that is named, whose rounds may be what differs instead."""
    registers: str = ""
    """The guard does not lead to a call of this function, but to the line that passes it on."""
    has_left: bool = False
    """The taker is in the handler or the `finally` of a `try` in which the other side still is."""

    @property
    def is_of_a_pair(self) -> bool:
        """Whether one side sends what the other one receives: they part by right."""
        return self.is_split and {call.lstrip("i") for call in self.calls} == {"send", "recv"}


def part(
    sides: tuple[Trail, Trail],
    sources: Sources,
    counts: tuple[int, int] | None = None,
    alone: tuple[bool, bool] = (False, False),
    *,
    common: tuple[bool, bool] = (False, False),
    alike_rounds: bool = False,
    ranks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> Parting | None:
    """What separates two trails; None where the source does not show it.

    Args:
        counts: how many times each side made the call that one of them is in, where that is known.
        alone: of each side, whether the other one never made the call that it is in.
        common: of each side, whether the other one made the call that it is in.
        ranks: of each side.
        alike_rounds: both have begun the same step of their training: a loop that ended early does not part them.
    """
    level = level_of(*sides)
    if level is None:
        return None
    places = [places_of(trail, sources) for trail in sides]
    options = list(_options(sides, places, level, counts, alone))
    for side in (0, 1):
        if not common[side]:
            options += _of_passed_on(places, side, level, sides[1 - side], counts)
    options = [one for one in options if one.score > 0 and not _is_ruled_out(one, ranks)]
    if alike_rounds:
        options = [one for one in options if one.guard.kind != "loop"] or options
    if not options:
        options = [
            one for side in (0, 1) if _has_passed(alone, counts, side)
            for one in _only_way(places, level, side)
        ]  # fmt: skip
    best = max(options, key=lambda option: option.order, default=None)
    if best is None:
        return None
    outer = best
    if best.guard.kind == "loop":
        # Of loops of which nothing tells which one differs, the side is in a round of the innermost.
        score = best.score
        nested = [one for one in options if one.guard.kind == "loop" and one.side == best.side]
        best = [one for one in nested if one.score == score][-1]
    parting = _parting(best, places, level)
    around = outer.guard if outer is not best else None
    if best.guard.kind == "try" and counts is not None:
        around = loop_around(best.place, best.guard)
    return msgspec.structs.replace(parting, around=around)


def level_of(one: Trail, other: Trail) -> int | None:
    """The index of the innermost function that both are in; 0 where one side has ended."""
    if one.ended or other.ended:
        return 0 if one.steps or other.steps else None
    level = None
    for number, (mine, yours) in enumerate(zip(one.steps, other.steps, strict=False)):
        if not mine.is_in(yours):
            break
        level = number
        if mine.line != yours.line:
            break
    return level


def dispatching(one: Trail, other: Trail) -> Step | None:
    """The line from which the sides go into different functions; None where they part otherwise."""
    level = level_of(one, other) if one.steps and other.steps else None
    if level is None or one.steps[level].line != other.steps[level].line:
        return None
    deeper = min(len(one.steps), len(other.steps)) > level + 1
    return one.steps[level] if deeper else None


def _options(
    sides: tuple[Trail, Trail],
    places: list[list[Place | None]],
    level: int,
    counts: tuple[int, int] | None,
    alone: tuple[bool, bool],
) -> Iterator[Option]:
    here = [own[level] if level < len(own) else None for own in places]
    ahead = _ahead(here)
    if here[0] is not None and here[1] is not None:
        below = (places[0][level:], places[1][level:])
        yield from _splits(sides, here[0], here[1], below, counts)
    for side in (0, 1):
        mine, yours, gone = here[side], here[1 - side], sides[1 - side]
        made = (counts[side], counts[1 - side]) if counts is not None else None
        if mine is not None:
            beside = _BESIDE if ahead == side and not _has_passed(alone, counts, side) else 0.0
            for guard in unshared(mine, yours):
                if has_yet_to_come(gone, yours, guard):
                    continue
                if may_come_again(gone, (mine, yours), guard, made, deeper=False):
                    continue
                if not guard.is_exit or (ahead != side and may_leave_by(guard, yours)):
                    yield from scored(mine, guard, side, gone, beside, counts)
        # What a culprit does deep inside a function may be what the others did there before.
        # Unless they did it there less often, or never.
        more = made is not None and made[0] > made[1]
        usual = _BESIDE if not more and (side == 0 or ahead == side) else 0.0
        never = 0.0 if alone[side] and ahead != side else usual
        if mine is not None and has_yet_to_call(gone, (mine, yours), made):
            continue
        for depth, place in enumerate(places[side][level + 1 :], 1):
            recurses = _recurses(sides[side], level + depth)
            for option in _of_place(place, side, gone, (usual, never), counts) if place else ():
                branches = option.guard.kind in _BRANCHES and not is_about_rank(option.guard.tests)
                again = mine is not None and may_come_again(
                    gone, (mine, yours), option.guard, made, deeper=True
                )
                if not again and not (recurses and branches):
                    yield msgspec.structs.replace(option, depth=depth)


def _recurses(trail: Trail, number: int) -> bool:
    """Whether a function is in itself there: which way it takes parts no ranks that go all ways elsewhere."""
    beside = (*trail.steps[number - 1 : number], *trail.steps[number + 1 : number + 2])
    return any(trail.steps[number].is_in(one) for one in beside)


def _of_place(
    place: Place,
    side: int,
    gone: Trail,
    beside: tuple[float, float],
    counts: tuple[int, int] | None,
) -> Iterator[Option]:
    """Of a function that only one side is in: what guards its line.

    Args:
        beside: less for a cleanup, which says less than what it follows, and for any other guard.
    """
    for guard in unshared(place, None):
        less = beside[0] if guard.kind in OF_A_TRY else beside[1]
        yield from scored(place, guard, side, gone, less, counts)


def _only_way(places: list[list[Place | None]], level: int, side: int) -> Iterator[Option]:
    """The one branch that leads to a call which the other side went past: it parts them, whatever it is about."""
    here = places[1 - side][level] if level < len(places[1 - side]) else None
    way = places[side][level:]
    if not all(place is not None and place.is_direct for place in way):
        return
    found = [
        (place, guard, depth)
        for depth, place in enumerate(way)
        if place is not None
        for guard in unshared(place, None if depth else here)
    ]
    if len(found) == 1 and found[0][1].kind in _BRANCHES:
        place, guard, depth = found[0]
        yield Option(score=1.0, guard=guard, about="", side=side, place=place, depth=depth)


def _has_passed(alone: tuple[bool, bool], counts: tuple[int, int] | None, side: int) -> bool:
    """Whether the other side has gone on without this side's call, which it never made."""
    return alone[side] and counts is not None and counts[1 - side] > counts[side]


def _of_passed_on(
    places: list[list[Place | None]],
    side: int,
    level: int,
    gone: Trail,
    counts: tuple[int, int] | None,
) -> Iterator[Option]:
    """What decides that a side comes to functions that are called by another name than their own."""
    theirs = [guard for place in places[1 - side] if place is not None for guard in place.guards]
    caller: Place | None = None
    for depth, place in enumerate(places[side][level:]):
        if place is not None:
            registered = registered_of(caller, place, places[1 - side]) if caller else ()
            for number, (guard, view) in enumerate((*registered, *place.chosen)):
                if any(_is_met_by(guard, other) for other in theirs):
                    continue
                there = msgspec.structs.replace(place, view=view)
                for option in scored(there, guard, side, gone, 0.0, counts):
                    if option.about in OF_A_FAILURE:
                        yield msgspec.structs.replace(
                            option, place=place, depth=depth, registers=number < len(registered)
                        )
        caller = place


def _ahead(here: Sequence[Place | None]) -> int | None:
    """The side whose line comes later in the function; None where a loop around both lets nobody tell."""
    one, other = here
    if one is None or other is None:
        return 0 if one is None else 1
    loops = {id(guard.node) for guard in one.guards if guard.kind == "loop"}
    if one.step.line == other.step.line or any(
        guard.kind == "loop" and id(guard.node) in loops for guard in other.guards
    ):
        return None
    return 0 if one.step.line > other.step.line else 1


def unshared(mine: Place, yours: Place | None) -> list[Guard]:
    """The guards of one line that the other line is not under; of an `elif`, not the `else` that it is."""
    others = yours.guards if yours is not None else ()
    found = [g for g in mine.guards if not any(_is_met_by(g, other) for other in others)]
    return [g for g, inner in zip_longest(found, found[1:]) if not _is_all_of_else(inner, g)]


def _is_all_of_else(inner: Guard | None, outer: Guard) -> bool:
    """Whether an `if` is all that there is in the `else` of another one: the inner one says more."""
    if inner is None or not isinstance(outer.node, ast.If) or outer.is_exit:
        return False
    return outer.arm == "else" and outer.node.orelse == [inner.node]


def _is_met_by(guard: Guard, other: Guard) -> bool:
    return guard.is_shared_with(other) or (guard.node is other.node and not guard.is_exit)


def may_leave_by(exit_: Guard, yours: Place | None) -> bool:
    """Whether the other side may have left by this exit."""
    if yours is None:
        return True
    if exit_.kind in ("return", "exit"):
        return False
    around = [guard.node for guard in yours.guards if guard.kind == "loop"]
    if exit_.kind == "break":
        return exit_.loop not in around
    return True


def _splits(
    sides: tuple[Trail, Trail],
    one: Place,
    other: Place,
    below: tuple[Sequence[Place | None], Sequence[Place | None]],
    counts: tuple[int, int] | None,
) -> Iterator[Option]:
    """One construct with both lines, each in an arm of its own."""
    for mine in one.guards:
        for yours in other.guards:
            if mine.node is yours.node and mine.arm != yours.arm and not mine.is_exit:
                side = 0 if _leads(mine) >= _leads(yours) else 1
                place, guard = (one, mine) if side == 0 else (other, yours)
                rest = yours if side == 0 else mine
                # Everybody comes to a `finally`: what the others do before it may be what differs.
                plain = guard.kind == "finally" and not _has_left(guard, rest, below[1 - side])
                more = 0.0 if plain else _SPLIT
                yield from scored(place, guard, side, sides[1 - side], -more, counts, rest)


def _leads(guard: Guard) -> int:
    """Which arm is the one to name: what was entered, not what is left over."""
    if guard.arm == "else":
        return 0
    return (
        1
        if guard.kind in ("try", "loop") or (guard.arm == "body" and guard.kind == "finally")
        else 2
    )


def _is_ruled_out(option: Option, ranks: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Whether a guard that a side is only thought to have taken names another rank."""
    guard = option.guard
    is_around = any(one is guard for one in option.place.guards)
    taker = 1 - option.side if guard.is_exit else option.side
    return (guard.is_exit or not is_around) and is_ruled_out(guard, ranks[taker])


def _parting(best: Option, places: list[list[Place | None]], level: int) -> Parting:
    number = next(n for n, place in enumerate(places[best.side]) if place is best.place)
    shown: list[Place | None] = [None, None]
    shown[best.side] = best.place
    theirs = places[1 - best.side]
    at = min(number, level, len(theirs) - 1)
    shown[1 - best.side] = theirs[at] if theirs else None
    return Parting(
        guard=best.guard,
        about=best.about if best.about != "constant" else "",
        taker=1 - best.side if best.guard.is_exit else best.side,
        is_split=best.other is not None,
        file=best.place.step.file,
        function=best.place.step.function,
        steps=(shown[0].step if shown[0] else None, shown[1].step if shown[1] else None),
        calls=(_innermost_call(places[0]), _innermost_call(places[1])),
        other=best.other,
        registers=best.place.step.function if best.registers else "",
        has_left=best.other is not None and _has_left(best.guard, best.other, theirs[level:]),
    )


def _has_left(guard: Guard, rest: Guard, theirs: Sequence[Place | None]) -> bool:
    """Whether whoever is under that guard left the `try` in whose body the others are, before their line.

    Whoever runs a handler did. To a `finally` one also comes by the end of the body, if anything there let it skip
    that line.
    """
    if rest.arm != "body" or guard.kind == "except":
        return rest.arm == "body"
    if guard.arm != "finally":
        return False
    inside: list[Guard] = []
    for place in theirs:
        if place is None or not place.is_direct:
            return False
        inside += (
            place.guards[place.guards.index(rest) + 1 :] if rest in place.guards else place.guards
        )
    return all(one.kind in ("raise", "exit", "finally") for one in inside)


def _innermost_call(places: Iterable[Place | None]) -> str:
    last = next(iter(list(places)[-1:]), None)
    return last.called if last is not None else ""
