"""Functions that are called by another name than their own: what decides which one it is."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence

from distwatch.diagnosis.why.guard import Guard, choice_guard
from distwatch.diagnosis.why.guards import guards_to
from distwatch.diagnosis.why.index import Reference
from distwatch.diagnosis.why.names import View, attribute_values, has_variable
from distwatch.diagnosis.why.source import FUNCTIONS, Scope, Source, called_name, within
from distwatch.diagnosis.why.topics import CONFIG

_CHOICES = frozenset(("branch", "conditional", "short_circuit", "match", "return"))
_MOST = 3
"""Of a function that is passed on in more places, none is named."""
Chosen = tuple[tuple[Guard, View], ...]


def registrations_of(
    source: Source, scope: Scope, *, by_own_name: bool, others: Collection[Scope]
) -> Chosen:
    """What guards the lines that pass a function on, as to `add_callback(save)`; none where one is unguarded.

    Of a method that nobody passes on: what guards the lines on which an object of its class is made.

    Args:
        others: the functions in which the other side is: who is in a method of the class has such an object, too.
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
    of = source.classes.get(id(scope))
    passed = [node for node in source.passed.get(scope.name, ()) if _may_mean(source, node, of)]
    if passed:
        known = all(_means(source, node, of) for node in passed)
        return _guarding(source, passed) if known and not by_own_name else ()
    if of is None or of.name in source.inherited:
        return ()
    if any(source.classes.get(id(other)) is of for other in others):
        return ()
    return _guarding(source, source.calls_named(of.name))


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
    if not nodes or len(nodes) > _MOST:
        return ()
    guards = [[one for one in guards_to(source, node) if one.kind in _CHOICES] for node in nodes]
    arms: dict[int, set[str]] = {}
    for guard in (guard for found in guards for guard in found):
        arms.setdefault(_condition(guard), set()).add(guard.arm)
    both = {condition for condition, taken in arms.items() if len(taken) > 1}
    guards = [[one for one in found if not _is_on_both_ways(one, nodes, both)] for found in guards]
    if not all(guards):
        return ()
    return tuple(
        (guard, View(source, source.scope_at(guard.line))) for found in guards for guard in found
    )


def _condition(guard: Guard) -> int:
    """The same for the arms of a construct and for what is left by its condition."""
    return id(guard.tests[0]) if guard.tests else id(guard.node)


def _is_on_both_ways(guard: Guard, nodes: Sequence[ast.AST], both: Collection[int]) -> bool:
    """Whether the thing is passed on, or made, whichever way that guard is taken."""
    if _condition(guard) in both:
        return True
    return guard.is_exit and any(node in nodes for node in ast.walk(guard.node))


def _may_mean(source: Source, node: Reference, of: ast.ClassDef | None) -> bool:
    """Whether a reference may stand for a function of that class, or of none: a variable of its name does not."""
    if isinstance(node, ast.Name):
        return of is None and not has_variable(source, source.scope_at(node.lineno), node.id)
    if of is None or (isinstance(node.value, ast.Name) and node.value.id in CONFIG):
        return False
    return not _is_self(node.value) or _means(source, node, of)


def _means(source: Source, node: Reference, of: ast.ClassDef | None) -> bool:
    """Whether a reference that may stand for the function does: of objects, only if it is known what they are."""
    if of is None or isinstance(node, ast.Name):
        return True
    if _is_self(node.value):
        return _class_around(source, node) is of
    if not isinstance(node.value, ast.Name):
        return isinstance(node.value, ast.Call) and called_name(node.value) == of.name
    scope = source.scope_at(node.lineno)
    made = [one for one, _ in View(source, scope).meanings(node.value.id)]
    return any(isinstance(one, ast.Call) and called_name(one) == of.name for one in made)


def _class_around(source: Source, node: ast.expr) -> ast.ClassDef | None:
    scope = source.scope_at(node.lineno)
    around = (scope, *source.scopes_around(scope))
    return next((of for one in around if (of := source.classes.get(id(one)))), None)


def _named(root: ast.AST, names: Iterable[str]) -> Iterator[ast.AST]:
    """References to functions of these names below a node."""
    wanted = frozenset(names)
    for node in ast.walk(root):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in wanted:
                yield node


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
