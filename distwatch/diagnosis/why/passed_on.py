"""Functions that are called by another name than their own: what decides which one it is."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from distwatch.diagnosis.why.guard import Guard, choice_guard
from distwatch.diagnosis.why.guards import guards_to
from distwatch.diagnosis.why.names import View, attribute_values
from distwatch.diagnosis.why.source import FUNCTIONS, Scope, Source, called_name, within

_CHOICES = frozenset(("branch", "conditional", "short_circuit", "match", "return"))
_MOST = 3
"""Of a function that is passed on in more places, none is named."""
Chosen = tuple[tuple[Guard, View], ...]


def registrations_of(source: Source, scope: Scope, *, by_own_name: bool) -> Chosen:
    """What guards the lines that pass a function on, as to `add_callback(save)`; none where one is unguarded.

    Of a method that nobody passes on: what guards the lines on which an object of its class is made.
    """
    if isinstance(scope, ast.Lambda):
        return _guarding(source, [scope])
    if not isinstance(scope, FUNCTIONS) or scope.name == "__init__":
        return ()
    if defined := _guarding(source, [scope]):
        return defined
    if isinstance(scope, ast.AsyncFunctionDef) and not by_own_name:
        # Where it is called, a coroutine is made; the event loop runs it elsewhere.
        return _guarding(source, source.calls_named(scope.name))
    called = {id(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    passed = [node for node in _named(source.tree, (scope.name,)) if id(node) not in called]
    if passed:
        return () if by_own_name else _guarding(source, passed)
    of = _class_of(source, scope)
    return _guarding(source, _constructions(source, of)) if of is not None else ()


def choices_of(view: View, call: ast.Call, called: Sequence[str]) -> tuple[str, Chosen]:
    """One of these functions that a variable which is called stands for, and what decides about that."""
    meant = list(meanings_of_callee(view, call))
    chosen = [
        (name, node, where)
        for value, where in meant
        for name in called
        for node in _named(value, (name,))
    ]
    found = [
        (guard, where)
        for _, node, where in chosen
        for guard in guards_to(where.source, node)
        if guard.kind in _CHOICES
    ]
    return (chosen[0][0], tuple(found)) if len(chosen) == 1 else ("", ())


def keys_of(view: View, call: ast.Call) -> Chosen:
    """What decides which one of several is called: `getattr(hooks, event)()`, `handlers[mode]()`."""
    if isinstance(call.func, ast.Call):
        keys: list[ast.expr] = [*call.func.args[1:2]] if called_name(call.func) == "getattr" else []
    else:
        keys = [call.func.slice] if isinstance(call.func, ast.Subscript) else []
    names = {one.id for key in keys for one in ast.walk(key) if isinstance(one, ast.Name)}
    choices = (
        (part, where)
        for name in sorted(names)
        for value, where in view.meanings(name)
        for part in within(value)
        if isinstance(part, ast.IfExp)
    )
    return tuple((choice_guard(where.source, part), where) for part, where in choices)


def meanings_of_callee(view: View, call: ast.Call) -> Iterator[tuple[ast.AST, View]]:
    """The expressions that a variable may stand for which is called; none for a function."""
    if isinstance(call.func, ast.Name):
        yield from view.meanings(call.func.id)
    elif isinstance(call.func, ast.Attribute) and _is_self(call.func.value):
        yield from attribute_values(view.source, call.func.attr)


def _guarding(source: Source, nodes: Sequence[ast.AST]) -> Chosen:
    guards = [[one for one in guards_to(source, node) if one.kind in _CHOICES] for node in nodes]
    if not guards or len(guards) > _MOST or not all(guards):
        return ()
    return tuple(
        (guard, View(source, source.scope_at(guard.line))) for found in guards for guard in found
    )


def _named(root: ast.AST, names: Iterable[str]) -> Iterator[ast.AST]:
    """References to functions of these names below a node."""
    wanted = frozenset(names)
    for node in ast.walk(root):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in wanted:
                yield node


def _class_of(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    return next(
        (
            node.name
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef) and function in node.body
        ),
        None,
    )


def _constructions(source: Source, of: str) -> Sequence[ast.AST]:
    """Where objects of a class are made; none where other classes of the file inherit from it."""
    bases = [
        base
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    ]
    inherited = any(next(_named(base, (of,)), None) is not None for base in bases)
    return () if inherited else source.calls_named(of)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
