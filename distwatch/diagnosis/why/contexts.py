"""Contexts and switches around a line that let a rank leave out a call: `no_sync`, and what swallows an exception."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from distwatch.diagnosis.why.guard import TRIES, Guard, header_of
from distwatch.diagnosis.why.names import View, attribute_values
from distwatch.diagnosis.why.source import (
    FUNCTIONS,
    Function,
    Scope,
    Source,
    called_name,
    covers,
    within,
)

_SYNC_SWITCH = "require_backward_grad_sync"
"""DDP reads this attribute of its own in each backward: `no_sync` sets it, and so do people."""


def chosen_no_sync(source: Source, scope: Scope, name: str) -> Iterator[Guard]:
    """What decides whether a context is `no_sync`: `context = model.no_sync() if more else nullcontext()`."""
    for node in within(scope):
        if not isinstance(node, (ast.If, ast.Assign)) or "no_sync" not in source.segment(node):
            continue
        assigned = node.body if isinstance(node, ast.If) else [node]
        if not any(isinstance(one, ast.Assign) and _assigns(one, name) for one in assigned):
            continue
        if isinstance(node, ast.If):
            text, test = header_of(source, node), node.test
        elif isinstance(node.value, ast.IfExp):
            text, test = source.code(node.lineno), node.value.test
        else:
            continue
        yield _no_sync(node, text, test)
        return


def _no_sync(node: ast.stmt, text: str, test: ast.expr) -> Guard:
    return Guard(
        kind="no_sync", node=node, arm="chosen", line=node.lineno, text=text, tests=(test,)
    )


def switched_sync(source: Source, scope: Scope, line: int) -> Iterator[Guard]:
    """What decides whether a backward waits for the others: `model.require_backward_grad_sync = last`."""
    for node in within(scope):
        if not isinstance(node, ast.Assign) or not any(_is_switch(one) for one in node.targets):
            continue
        deciding = next((one for one in within(scope) if _sets_inside(one, node)), None)
        if not isinstance(node.value, ast.Constant):
            yield _no_sync(node, source.code(node.lineno), node.value)
            return
        if isinstance(deciding, ast.If) and not covers(deciding, line):
            yield _no_sync(deciding, header_of(source, deciding), deciding.test)
            return


def _is_switch(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) and target.attr == _SYNC_SWITCH


def _sets_inside(node: ast.AST, assignment: ast.Assign) -> bool:
    return isinstance(node, ast.If) and assignment in (*node.body, *node.orelse)


def swallows(source: Source, scope: Scope, context: ast.expr) -> bool:
    """Whether that context may end an exception that comes out of it, by its source."""
    made: list[ast.AST] = [context]
    if isinstance(context, ast.Name):
        made = [one for one, _ in View(source, scope).meanings(context.id)]
    elif isinstance(context, ast.Attribute):
        made = [one for one, _ in attribute_values(source, context.attr)]
    names = {called_name(one) for one in made if isinstance(one, ast.Call)}
    if "suppress" in names:
        return True
    return any(_class_swallows(source, name) for name in names) or any(
        _generator_swallows(function) for name in names for function in source.functions(name)
    )


def _class_swallows(source: Source, name: str) -> bool:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            exits = [f for f in node.body if isinstance(f, FUNCTIONS) and f.name == "__exit__"]
            return any(_may_be_true(one.value) for f in exits for one in _returns(f))
    return False


def _returns(function: Function) -> Iterator[ast.Return]:
    yield from (node for node in within(function) if isinstance(node, ast.Return))


def _may_be_true(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def _generator_swallows(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a `@contextmanager` catches what comes out of its `yield` and does not raise it again."""
    return any(
        isinstance(node, TRIES)
        and any(isinstance(inner, ast.Yield) for one in node.body for inner in within(one))
        and any(not any(isinstance(n, ast.Raise) for n in within(h)) for h in node.handlers)
        for node in within(function)
    )


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
