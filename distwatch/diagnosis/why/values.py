"""Where a value comes from that ranks pass to the same call, and that differs between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from distwatch.diagnosis.why.guards import Guard
from distwatch.diagnosis.why.source import Source, called_name, covers, within
from distwatch.diagnosis.why.topics import Topic, View, topic_of
from distwatch.diagnosis.why.trails import Step

_DEEPEST = 4
_PER_RANK = ("rank", "randomness", "environment")


def origin_of(source: Source, step: Step, called: tuple[str, ...]) -> tuple[Guard, Topic] | None:
    """The expression that makes the arguments of a call differ, and what it is about.

    Args:
        called: names of the call; none: any call on the line, and what differs is what it calls.
    """
    try:
        return _find_origin(source, step, called)
    except RecursionError:
        return None


def _find_origin(source: Source, step: Step, called: tuple[str, ...]) -> tuple[Guard, Topic] | None:
    view = View(source, source.scope_at(step.line, step.function))
    for call in _calls(view, step.line, called):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        differing = arguments if called else [call.func]
        meant = [one for part in differing for one in _meanings(view, part, 0)]
        # What chooses between two values tells more than what is computed from them.
        for deciding in (_choice, _computed):
            for node, where in meant:
                if found := deciding(where, node):
                    return found
    return None


def _calls(view: View, line: int, called: tuple[str, ...]) -> Iterator[ast.Call]:
    for node in within(view.scope):
        if isinstance(node, ast.Call) and covers(node, line):
            # `all_gather_object` calls all_gather.
            name = called_name(node)
            if not called or name in called or name.startswith(called):
                yield node


def _meanings(view: View, node: ast.AST, depth: int) -> Iterator[tuple[ast.AST, View]]:
    """An expression, and whatever its names stand for."""
    yield node, view
    for name in within(node) if depth < _DEEPEST else ():
        if isinstance(name, ast.Name):
            for value, where in view.meanings(name.id):
                if value is not node:
                    yield from _meanings(where, value, depth + 1)


def _choice(view: View, node: ast.AST) -> tuple[Guard, Topic] | None:
    for part in within(node):
        if isinstance(part, ast.IfExp):
            return _guard(view, part, part.test)
    return None


def _computed(view: View, node: ast.AST) -> tuple[Guard, Topic] | None:
    if not isinstance(node, ast.expr) or isinstance(node, ast.Name):
        return None
    own = topic_of(view, [node])[0]
    return _guard(view, node, node) if own in _PER_RANK else None


def _guard(view: View, node: ast.expr, test: ast.expr) -> tuple[Guard, Topic]:
    guard = Guard(
        kind="conditional", node=node, arm="", line=node.lineno,
        text=view.source.line(node.lineno), tests=(test,),
    )  # fmt: skip
    return guard, topic_of(view, [test])[0]
