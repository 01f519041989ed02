"""Ranks that part on one line: in what they pass there, in what they call from there, or in the rounds of a loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import msgspec

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.guards import guards_of
from distwatch.diagnosis.why.names import View, is_counter
from distwatch.diagnosis.why.options import WEIGHT
from distwatch.diagnosis.why.orders import loop_in_own_order
from distwatch.diagnosis.why.places import Sources
from distwatch.diagnosis.why.sides import Side
from distwatch.diagnosis.why.source import Source, excerpt, within
from distwatch.diagnosis.why.topics import Topic, topic_of
from distwatch.diagnosis.why.trails import Step
from distwatch.diagnosis.why.values import (
    Aspect,
    calls_on,
    differing_arguments,
    meanings,
    origin_of,
)
from distwatch.diagnosis.why.words import advice_on_rounds
from distwatch.state.finding import Finding, Way
from distwatch.state.rank_sets import name_ranks

_ASPECTS: dict[str, Aspect] = {
    "root_disagrees": "root", "shape_mismatch": "tensor", "dtype_mismatch": "tensor", "cycle": "group",
}  # fmt: skip


def told_by_line(
    finding: Finding,
    sides: tuple[Side, Side],
    step: Step,
    called: tuple[str, ...],
    sources: Sources,
) -> Finding:
    """The same finding with what the source shows of that line.

    Args:
        called: names of the call; none: the ranks call different things from there.
    """
    source = sources(step.file)
    if source is None:
        return finding
    aspect = _ASPECTS.get(finding.code.rpartition(".")[2], "")
    if origin := origin_of(source, step, called, aspect):
        return _with_origin(finding, sides, step, source, origin, bool(called))
    if aspect == "tensor" and (skipping := skipping_of(source, step, called)):
        return _with_rounds(finding, sides, step, source, skipping)
    if aspect == "tensor" and (order := _own_order_of(source, step, called)):
        return _with_order(finding, sides, step, source, order)
    return finding


def _own_order_of(
    source: Source, step: Step, called: tuple[str, ...]
) -> tuple[Guard, Topic] | None:
    try:
        return _find_own_order(source, step, called)
    except RecursionError:
        return None  # as for `part`


def _find_own_order(
    source: Source, step: Step, called: tuple[str, ...]
) -> tuple[Guard, Topic] | None:
    view = View(source, source.scope_at(step.line, step.function))
    guards = guards_of(source, view.scope, step.line, called)
    for call in calls_on(view, step.line, called):
        passed = differing_arguments(call, "tensor")
        names = frozenset(name for one in passed for name in _names_behind(view, one))
        if found := loop_in_own_order(view, guards, names):
            return found
    return None


def skipping_of(
    source: Source, step: Step, called: tuple[str, ...]
) -> tuple[Guard, Guard, Topic] | None:
    """The loop of which the ranks are in different rounds, and what lets a rank skip the call in a round.

    What they pass depends on nothing but the number of the round, and it differs: so their rounds differ.
    """
    try:
        return _find_skipping(source, step, called)
    except RecursionError:
        return None  # as for `part`


def _find_skipping(
    source: Source, step: Step, called: tuple[str, ...]
) -> tuple[Guard, Guard, Topic] | None:
    view = View(source, source.scope_at(step.line, step.function))
    guards = guards_of(source, view.scope, step.line, called)
    for call in calls_on(view, step.line, called):
        passed = [
            one
            for one in differing_arguments(call, "tensor")
            if topic_of(view, [one])[1] == "constant"
        ]
        names = {name for one in passed for name in _names_behind(view, one)}
        for number, loop in enumerate(guards):
            if loop.kind == "loop" and any(_counts(loop.node, name) for name in names):
                options = [
                    (guard, topic_of(view, guard.tests)[0])
                    for guard in guards[number + 1 :]
                    if guard.kind != "loop"
                ]
                told = [one for one in options if one[1] not in ("", "constant")]
                if told:
                    guard, about = max(told, key=lambda one: WEIGHT[one[1]])
                    return loop, guard, about
    return None


def _names_behind(view: View, node: ast.expr) -> Iterator[str]:
    for meaning, _ in meanings(view, node, 0):
        yield from (one.id for one in within(meaning) if isinstance(one, ast.Name))


def _counts(loop: ast.AST, name: str) -> bool:
    """Whether that name is the number of the loop's round."""
    if isinstance(loop, (ast.For, ast.AsyncFor)):
        named = any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(loop.target))
        return named and is_counter(loop.iter, loop.target, name)
    return any(
        isinstance(one, ast.AugAssign) and isinstance(one.target, ast.Name) and one.target.id == name
        for one in within(loop)
    )  # fmt: skip


def _with_origin(
    finding: Finding, sides: tuple[Side, Side], step: Step, source: Source,
    origin: tuple[Guard, Topic], is_value: bool,
) -> Finding:  # fmt: skip
    guard, about = origin
    who = name_ranks((*sides[0].ranks, *sides[1].ranks))
    verb = "pass" if is_value else "call"
    place = f"{step.file.rpartition('/')[2]}:{guard.line}"
    return msgspec.structs.replace(
        finding,
        summary=f"{finding.summary}; what {who} {verb} comes from `{guard.text}`, {place}",
        why=_ways(sides, step, source, msgspec.structs.replace(guard, kind="value"), about),
    )


def _with_order(
    finding: Finding, sides: tuple[Side, Side], step: Step, source: Source,
    order: tuple[Guard, Topic],
) -> Finding:  # fmt: skip
    found = _with_origin(finding, sides, step, source, order, is_value=True)
    of = "files in a folder" if order[1] == "files" else "the elements of a set"
    return msgspec.structs.replace(
        found,
        summary=f"{found.summary}: each process may have {of} in an order of its own",
        advice=found.advice
        if finding.has_own_advice
        else "Go through them in one order on every rank: sorted(…).",
    )


def _with_rounds(
    finding: Finding, sides: tuple[Side, Side], step: Step, source: Source,
    skipping: tuple[Guard, Guard, Topic],
) -> Finding:  # fmt: skip
    loop, guard, about = skipping
    who = name_ranks((*sides[0].ranks, *sides[1].ranks))
    file = step.file.rpartition("/")[2]
    return msgspec.structs.replace(
        finding,
        summary=f"{finding.summary}; {who} are in different rounds of `{loop.text}`, and "
        f"`{guard.text}`, {file}:{guard.line}, decides in each round about the call",
        advice=finding.advice if finding.has_own_advice else advice_on_rounds(about),
        why=_ways(sides, step, source, guard, about),
    )


def _ways(
    sides: tuple[Side, Side], step: Step, source: Source, guard: Guard, about: Topic
) -> tuple[Way, ...]:
    return tuple(
        Way(
            global_ranks=side.ranks, file=step.file, line=step.line, function=step.function,
            source=source.line(step.line), condition=guard.text, condition_line=guard.line,
            kind=guard.kind, about=about if about != "constant" else "",
            lines=excerpt(source, guard.line, step.line),
        )
        for side in sides
    )  # fmt: skip
