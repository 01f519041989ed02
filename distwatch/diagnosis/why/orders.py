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
    if _is_of_numbers(view, node, depth):
        return ""  # numbers hash alike in every process
    if isinstance(node, (ast.Set, ast.SetComp)):
        return "randomness"
    if isinstance(node, ast.Call):
        return _order_of_result(view, node, depth)
    if isinstance(node, ast.BinOp) and isinstance(
        node.op, (ast.Sub, ast.BitOr, ast.BitAnd, ast.BitXor)
    ):
        return _order_of(view, node.left, depth + 1) or _order_of(view, node.right, depth + 1)
    if isinstance(node, (ast.Name, ast.Attribute)) and _is_put_in_order(view, node):
        return ""
    meant = _meant(view, node)
    return next((found for one, where in meant if (found := _order_of(where, one, depth + 1))), "")


def _is_put_in_order(view: View, node: ast.Name | ast.Attribute) -> bool:
    """Whether it is sorted, or shuffled, in place: `files.sort()`, `random.shuffle(files)`."""
    sorts = (call.func for call in view.source.calls_named("sort"))
    put = [
        *(of.value for of in sorts if isinstance(of, ast.Attribute)),
        *(one for call in view.source.calls_named("shuffle") for one in call.args[:1]),
    ]
    if isinstance(node, ast.Attribute):
        return any(isinstance(one, ast.Attribute) and one.attr == node.attr for one in put)
    scopes = (view.scope, *(where.scope for _, where in view.meanings(node.id)))
    return any(
        isinstance(one, ast.Name)
        and one.id == node.id
        and view.source.scope_at(one.lineno) in scopes
        for one in put
    )


def _meant(view: View, node: ast.AST) -> list[tuple[ast.AST, View]]:
    if isinstance(node, ast.Name):
        return [*view.meanings(node.id)]
    return [*attribute_values(view.source, node.attr)] if isinstance(node, ast.Attribute) else []


def _is_of_numbers(view: View, node: ast.AST, depth: int) -> bool:
    """Whether a collection is only of numbers that are written down, or of a range."""
    if depth > _DEEPEST:
        return False
    if isinstance(node, (ast.Set, ast.List, ast.Tuple)):
        return all(_is_number(one) for one in node.elts)
    if isinstance(node, ast.SetComp):
        return _is_number(node.elt, _counted(view, node.generators, depth))
    if isinstance(node, ast.Name):
        meant = _meant(view, node)
        return bool(meant) and all(_is_of_numbers(where, one, depth + 1) for one, where in meant)
    if isinstance(node, ast.Call):
        name = called_name(node)
        return name == "range" or (
            name in ("set", "frozenset")
            and all(_is_of_numbers(view, a, depth + 1) for a in node.args)
        )
    return False


def _counted(view: View, generators: Iterable[ast.comprehension], depth: int) -> frozenset[str]:
    """Variables of a comprehension that are numbers."""
    return frozenset(
        one.target.id
        for one in generators
        if isinstance(one.target, ast.Name) and _is_of_numbers(view, one.iter, depth + 1)
    )


def _is_number(node: ast.expr, numbers: frozenset[str] = frozenset()) -> bool:
    """Whether an expression is only arithmetic of numbers."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Name):
        return node.id in numbers
    if isinstance(node, ast.BinOp):
        return _is_number(node.left, numbers) and _is_number(node.right, numbers)
    return isinstance(node, ast.UnaryOp) and _is_number(node.operand, numbers)


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
