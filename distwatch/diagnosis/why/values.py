"""Where a value comes from that ranks pass to the same call, and that differs between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Literal

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.guards import guards_to
from distwatch.diagnosis.why.names import View
from distwatch.diagnosis.why.passed_on import meanings_of_callee
from distwatch.diagnosis.why.source import Source, called_name, covers, within
from distwatch.diagnosis.why.topics import Topic, topic_of
from distwatch.diagnosis.why.trails import Step

_DEEPEST = 4
_PER_RANK = ("rank", "randomness", "environment")
Aspect = Literal["root", "group", "tensor", ""]
"""Which argument of a call differs; '': not known."""
_KEYWORDS: Mapping[Aspect, frozenset[str]] = {
    "root": frozenset(("src", "dst", "group_src", "group_dst")),
    "group": frozenset(("group", "pg", "process_group")),
}
_ROOT_AT = {"broadcast": 1, "reduce": 1, "gather": 2, "scatter": 2}
_GROUP_AT = {"all_reduce": 2, "broadcast": 2, "reduce": 3, "all_gather": 2, "barrier": 0}
"""The place of these arguments in torch's signatures, where they are passed without a name."""


def origin_of(
    source: Source, step: Step, called: tuple[str, ...], aspect: Aspect = ""
) -> tuple[Guard, Topic] | None:
    """The expression that makes the arguments of a call differ, and what it is about.

    Args:
        called: names of the call; none: any call on the line, and what differs is what it calls.
        aspect: which of its arguments differs.
    """
    try:
        return _find_origin(source, step, called, aspect)
    except RecursionError:
        return None


def differing_arguments(call: ast.Call, aspect: Aspect) -> list[ast.expr]:
    """Those that are of that aspect; all where none can be told to be."""
    name = called_name(call).removesuffix("_object_list").removesuffix("_object")
    places: Mapping[Aspect, Mapping[str, int]] = {"root": _ROOT_AT, "group": _GROUP_AT}
    found: dict[Aspect, list[ast.expr]] = {"root": [], "group": [], "tensor": []}
    for number, value in enumerate(call.args):
        is_of = (of for of, at in places.items() if at.get(name) == number)
        found[next(is_of, "tensor")].append(value)
    for keyword in call.keywords:
        named = (of for of, names in _KEYWORDS.items() if keyword.arg in names)
        found[next(named, "tensor")].append(keyword.value)
    everything = [*call.args, *(keyword.value for keyword in call.keywords)]
    return found.get(aspect) or everything


def _find_origin(
    source: Source, step: Step, called: tuple[str, ...], aspect: Aspect
) -> tuple[Guard, Topic] | None:
    view = View(source, source.scope_at(step.line, step.function))
    for call in calls_on(view, step.line, called):
        differing = differing_arguments(call, aspect) if called else [call.func]
        meant = [one for part in differing for one in meanings(view, part, 0)]
        # What chooses between two values tells more than what is computed from them.
        for deciding in (_choice, _computed):
            for node, where in meant:
                if found := deciding(where, node):
                    return found
        if not called and (found := _arms_of_callee(view, call)):
            return found
    return None


def calls_on(view: View, line: int, called: tuple[str, ...]) -> Iterator[ast.Call]:
    """The calls on a line that are of one of these names; of all names where there is none."""
    for node in within(view.scope):
        if isinstance(node, ast.Call) and covers(node, line):
            # `all_gather_object` calls all_gather.
            name = called_name(node)
            if not called or name in called or name.startswith(called):
                yield node


def meanings(view: View, node: ast.AST, depth: int) -> Iterator[tuple[ast.AST, View]]:
    """An expression, and whatever its names stand for, each once."""
    return _meanings(view, node, depth, set())


def _meanings(
    view: View, node: ast.AST, depth: int, told: set[tuple[ast.AST, ast.AST]]
) -> Iterator[tuple[ast.AST, View]]:
    # A name that is assigned thirty times from itself would be told a million times.
    if (node, view.scope) in told:
        return
    told.add((node, view.scope))
    yield node, view
    for name in within(node) if depth < _DEEPEST else ():
        if isinstance(name, ast.Name):
            for value, where in view.meanings(name.id):
                if value is not node:
                    yield from _meanings(where, value, depth + 1, told)


def _choice(view: View, node: ast.AST) -> tuple[Guard, Topic] | None:
    for part in within(node):
        if isinstance(part, ast.IfExp):
            found = _guard(view, part, part.test)
            if found[1] != "constant":  # a choice that every rank makes alike explains nothing
                return found
    return None


def _computed(view: View, node: ast.AST) -> tuple[Guard, Topic] | None:
    if not isinstance(node, ast.expr) or isinstance(node, ast.Name):
        return None
    own = topic_of(view, [node])[0]
    return _guard(view, node, node) if own in _PER_RANK else None


def _arms_of_callee(view: View, call: ast.Call) -> tuple[Guard, Topic] | None:
    """The construct in whose arms a variable is given one function or another."""
    meant = [
        (where, guards_to(where.source, node)) for node, where in meanings_of_callee(view, call)
    ]
    for (where, mine), (_, others) in combinations(meant, 2):
        for one, other in product(mine, others):
            if one.node is other.node and one.arm != other.arm and not one.is_exit:
                guard = one if one.arm != "else" else other
                about = topic_of(where, guard.tests)[0]
                if about != "constant":
                    return guard, about
    return None


def _guard(view: View, node: ast.expr, test: ast.expr) -> tuple[Guard, Topic]:
    guard = Guard(
        kind="conditional", node=node, arm="", line=node.lineno,
        text=view.source.code(node.lineno), tests=(test,),
    )  # fmt: skip
    return guard, topic_of(view, [test])[0]
