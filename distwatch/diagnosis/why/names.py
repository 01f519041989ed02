"""What a name or an attribute in a function may stand for, by the source: what is assigned, or what is passed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from distwatch.diagnosis.why.index import added_by
from distwatch.diagnosis.why.source import FUNCTIONS, Scope, Source, called_name, within

COUNTERS = frozenset(("range", "enumerate", "count"))
_CALLERS = 3
Bindings = Mapping[str, tuple[ast.expr, "View"]]


class View:
    """One function as names in it are looked up, with what its caller passed."""

    def __init__(self, source: Source, scope: Scope, bindings: Bindings | None = None) -> None:
        self.source = source
        self.scope = scope
        self.bindings = bindings or {}

    def meanings(self, name: str) -> Iterator[tuple[ast.AST, View]]:
        """The expressions that a name may stand for: what is assigned to it, or what was passed."""
        found = False
        for value in _assigned(self.source, self.scope, name):
            found = True
            yield value, self
        if found:
            return
        if name in self.bindings:
            yield self.bindings[name]
        elif name in _parameters(self.scope):
            yield from self._passed(name)
        elif not isinstance(self.scope, ast.Module):
            for scope in self.source.scopes_around(self.scope):
                values = _assigned(self.source, scope, name)
                yield from ((value, View(self.source, scope)) for value in values)
                if values:
                    break

    def _passed(self, name: str) -> Iterator[tuple[ast.AST, View]]:
        """What callers in the same file pass as a parameter."""
        if not isinstance(self.scope, FUNCTIONS):
            return
        for call, scope in self.source.calls_of(self.scope)[:_CALLERS]:
            bound = bind(call, self.scope, View(self.source, scope))
            if name in bound:
                yield bound[name]


def bind(
    call: ast.Call, function: ast.FunctionDef | ast.AsyncFunctionDef, caller: View
) -> dict[str, tuple[ast.expr, View]]:
    """What a call passes, by the name of the parameter."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] == ["self"]:
        names = names[1:]
    bound = dict(zip(names, call.args, strict=False))
    bound |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    return {
        name: (value, caller) for name, value in bound.items() if not isinstance(value, ast.Starred)
    }


def _parameters(scope: Scope) -> set[str]:
    if isinstance(scope, ast.Module):
        return set()
    arguments = scope.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def has_variable(source: Source, scope: Scope, name: str) -> bool:
    """Whether a scope has a variable of that name of its own."""
    return name in _parameters(scope) or bool(_assigned(source, scope, name))


def _assigned(source: Source, scope: Scope, name: str) -> list[ast.AST]:
    """Everything that a scope assigns to a name; a condition decides, too, which of several it is."""
    known = source.assigned.get((id(scope), name))
    if known is None:
        known = source.assigned[id(scope), name] = _find_assigned(scope, name)
    return known


def _find_assigned(scope: Scope, name: str) -> list[ast.AST]:
    values: list[ast.AST] = []
    for node in within(scope):
        values += _values(node, name)
    if len(values) < 2:
        return values
    deciding = [
        node.test
        for node in within(scope)
        if isinstance(node, ast.If) and any(_values(n, name) for n in within(node))
    ]
    return [*values, *deciding]


def _values(node: ast.AST, name: str) -> Sequence[ast.AST]:
    if isinstance(node, ast.Assign):
        return [node.value] if any(_names(target, name) for target in node.targets) else []
    if isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
        return [node.value] if node.value is not None and _names(node.target, name) else []
    if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) and _names(node.target, name):
        counts = is_counter(node.iter, node.target, name)
        return [ast.Constant(value=0) if counts else node.iter]
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return [
            item.context_expr
            for item in node.items
            if item.optional_vars is not None and _names(item.optional_vars, name)
        ]
    if isinstance(node, ast.ExceptHandler):
        return [node] if node.name == name else []
    added = added_by(node)
    is_it = added is not None and isinstance(added[0], ast.Name) and added[0].id == name
    return [added[1]] if added is not None and is_it else []


def _names(target: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(target))


def is_counter(iterated: ast.expr, target: ast.expr, name: str) -> bool:
    """Whether a loop's variable only counts rounds, as it does on every rank."""
    if not isinstance(iterated, ast.Call) or called_name(iterated) not in COUNTERS:
        return False
    if isinstance(target, ast.Tuple):
        return isinstance(target.elts[0], ast.Name) and target.elts[0].id == name
    return called_name(iterated) != "enumerate"


def attribute_values(source: Source, attribute: str) -> Iterator[tuple[ast.AST, View]]:
    """What is assigned to `self.attribute` anywhere in the file."""
    for value in source.attributes.get(attribute, ()):
        yield value, View(source, source.scope_at(value.lineno))


def defaults_of_option(source: Source, name: str) -> Iterator[tuple[ast.AST, View]]:
    """The defaults of a command line's option as `add_argument("--eval-every", default=…)` gives them."""
    for call in source.calls_named("add_argument"):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        said = [given["dest"]] if "dest" in given else call.args
        words = [one.value for one in said if isinstance(one, ast.Constant)]
        if "default" in given and any(
            isinstance(word, str) and word.lstrip("-").replace("-", "_") == name for word in words
        ):
            yield given["default"], View(source, source.scope_at(call.lineno))
