"""Loops over what each process has in an order of its own: sets, whose strings hash differently, and folders."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.names import View, attribute_values
from distwatch.diagnosis.why.source import called_name, within
from distwatch.diagnosis.why.topics import Topic

_SETS = frozenset(
    ("set", "frozenset", "union", "intersection", "difference", "symmetric_difference")
)
_LISTINGS = frozenset(("listdir", "iterdir", "glob", "iglob", "rglob", "scandir"))
_SAME_ORDER = frozenset(("list", "tuple", "iter", "enumerate", "reversed", "tqdm"))
_DEEPEST = 4


def loop_in_own_order(
    view: View, guards: Iterable[Guard], names: frozenset[str]
) -> tuple[Guard, Topic] | None:
    """The loop around a line whose variable is one of these names and whose order differs between processes."""
    for guard in guards:
        node = guard.node
        if not isinstance(node, (ast.For, ast.AsyncFor)) or not names & _targets(node.target):
            continue
        if about := _order_of(view, node.iter, 0):
            return guard, about
    return None


def _targets(target: ast.expr) -> frozenset[str]:
    return frozenset(one.id for one in ast.walk(target) if isinstance(one, ast.Name))


def _order_of(view: View, node: ast.AST, depth: int) -> Topic:
    """What the order of that collection depends on; '' where it is the same in every process."""
    if depth > _DEEPEST:
        return ""
    if isinstance(node, (ast.Set, ast.SetComp)):
        return "randomness"
    if isinstance(node, ast.Call):
        return _order_of_result(view, node, depth)
    if isinstance(node, ast.BinOp) and isinstance(
        node.op, (ast.Sub, ast.BitOr, ast.BitAnd, ast.BitXor)
    ):
        return _order_of(view, node.left, depth + 1)
    if isinstance(node, ast.Name):
        meant = [*view.meanings(node.id)]
    elif isinstance(node, ast.Attribute):
        meant = [*attribute_values(view.source, node.attr)]
    else:
        return ""
    return next((found for one, where in meant if (found := _order_of(where, one, depth + 1))), "")


def _order_of_result(view: View, call: ast.Call, depth: int) -> Topic:
    name = called_name(call)
    if name in _SETS:
        return "randomness"
    if name in _LISTINGS:
        return "files"
    if name in _SAME_ORDER and call.args:
        return _order_of(view, call.args[0], depth + 1)
    for function in view.source.functions(name)[:1]:
        inside = View(view.source, function)
        for node in within(function):
            if isinstance(node, ast.Return) and node.value is not None:
                return _order_of(inside, node.value, depth + 1)
    return ""
