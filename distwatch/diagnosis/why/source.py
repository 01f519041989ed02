"""A source file as a syntax tree, with the text of its parts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache

from distwatch.diagnosis.why.index import (
    Reference,
    classes_of_methods,
    inherited_names,
    passed_references,
    values_of_attributes,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Scope = ast.Module | Function
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 160
"""Characters of a line or condition that are shown."""
_AROUND = 1
_LINES = 9


class Source:
    """One file. Lines are counted from 1.

    Attributes:
        lines: its text.
        tree: its module.
        modules: names of the modules that it imports.
        assigned: what scopes assign to names, once it has been looked up: by the scope's id and the name.
    """

    def __init__(self, text: str) -> None:
        self._rows = re.split(r"\r\n|\r|\n", text)
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.modules = frozenset(
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        )
        self._scopes: list[Function] = [
            node for node in ast.walk(self.tree) if isinstance(node, (*FUNCTIONS, ast.Lambda))
        ]
        self.assigned: dict[tuple[int, str], list[ast.AST]] = {}
        self._calls: dict[str, list[ast.Call]] | None = None
        self._by_name: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
        for node in self._scopes:
            if isinstance(node, FUNCTIONS):
                self._by_name.setdefault(node.name, []).append(node)

    def line(self, number: int) -> str:
        """The text of a line without its indentation; '' beyond the file."""
        return self.lines[number - 1].strip()[:LONGEST] if 0 < number <= len(self.lines) else ""

    def code(self, number: int) -> str:
        """The text of a line without a comment behind it."""
        return re.sub(r"\s+#[^'\"]*$", "", self.line(number))

    def scope_at(self, line: int, function: str = "") -> Scope:
        """The innermost function around a line; of several on one line, the one of that name."""
        around = [node for node in self._scopes if covers(node, line)]
        named = [node for node in around if function and name_of(node) == function]
        return min(named or around, key=_length) if around else self.tree

    def scopes_around(self, scope: Scope) -> list[Scope]:
        """The functions that a function is defined in, the innermost first, then the module."""
        around = [
            one for one in self._scopes if one is not scope and covers(one, scope_line(scope))
        ]
        return [*sorted(around, key=_length), self.tree]

    def functions(self, name: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions and methods of that name."""
        return self._by_name.get(name, [])

    def calls_of(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef
    ) -> list[tuple[ast.Call, Scope]]:
        """The calls of a function in this file, each with the scope around it; of `__init__`, its class's."""
        name = function.name
        if name == "__init__" and (of := self.classes.get(id(function))):
            name = of.name
        return [(call, self.scope_at(call.lineno)) for call in self.calls_named(name)]

    def calls_named(self, name: str) -> list[ast.Call]:
        """All calls of anything by that name."""
        if self._calls is None:
            self._calls = {}
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Call) and (said := called_name(node)):
                    self._calls.setdefault(said, []).append(node)
        return self._calls.get(name, [])

    @cached_property
    def classes(self) -> dict[int, ast.ClassDef]:
        """The class of each method, by the method's id."""
        return classes_of_methods(self.tree)

    @cached_property
    def inherited(self) -> frozenset[str]:
        """Names of what classes of the file inherit from."""
        return inherited_names(self.tree)

    @cached_property
    def passed(self) -> dict[str, list[Reference]]:
        """By name, what is passed, assigned or an element of something."""
        return passed_references(self.tree)

    @cached_property
    def attributes(self) -> dict[str, list[ast.expr]]:
        """By name, what is assigned to an attribute or put into it."""
        return values_of_attributes(self.tree)

    def segment(self, node: ast.AST) -> str:
        """The text of an expression in one line, shortened."""
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        if not first or not last:
            return ""
        # Not by ast.get_source_segment: it splits the whole file each time. Columns count bytes.
        rows = [row.encode() for row in self._rows[first - 1 : last]]
        rows[-1] = rows[-1][: getattr(node, "end_col_offset", 0)]
        rows[0] = rows[0][getattr(node, "col_offset", 0) :]
        return " ".join(b" ".join(rows).decode("utf-8", "replace").split())[:LONGEST]


@lru_cache(maxsize=64)
def read_source(text: str) -> Source | None:
    """The file as a tree; None where this Python cannot parse it."""
    try:
        return Source(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def excerpt(source: Source, condition: int, line: int) -> tuple[tuple[int, str], ...]:
    """The condition, the line, and what is around them; not what is far between."""
    wanted = {n for at in (condition, line) if at for n in range(at - _AROUND, at + _AROUND + 1)}
    numbers = sorted(n for n in wanted if 0 < n <= len(source.lines))[:_LINES]
    texts = [(n, source.lines[n - 1].rstrip()) for n in numbers]
    margin = min((len(t) - len(t.lstrip()) for _, t in texts if t), default=0)
    return tuple((n, text[margin : margin + 120]) for n, text in texts)


def name_of(scope: Scope) -> str:
    """As Python names the frames of a function."""
    if isinstance(scope, ast.Module):
        return "<module>"
    return "<lambda>" if isinstance(scope, ast.Lambda) else scope.name


def body_of(scope: Scope) -> list[ast.stmt]:
    """The statements of a scope; a lambda's expression as a statement."""
    if not isinstance(scope, ast.Lambda):
        return scope.body
    only = ast.Expr(value=scope.body)
    return [ast.copy_location(only, scope.body)]


def within(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without what is inside functions that it defines."""
    waiting: list[ast.AST] = [node]
    while waiting:
        current = waiting.pop()
        yield current
        if current is node or not isinstance(current, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            waiting += reversed(list(ast.iter_child_nodes(current)))


def covers(node: ast.AST, line: int) -> bool:
    """Whether the line is one of a statement's or an expression's."""
    return first_line(node) <= line <= (getattr(node, "end_lineno", None) or 0)


def first_line(node: ast.AST) -> int:
    """Of a decorated function, the line of its first decorator."""
    decorators = getattr(node, "decorator_list", ())
    return min((d.lineno for d in decorators), default=getattr(node, "lineno", 0))


def called_name(call: ast.Call) -> str:
    """`all_reduce` of `dist.all_reduce(x)`; '' for a call of anything without a name."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def scope_line(scope: Scope) -> int:
    """The line of its `def`; 0 for a module."""
    return 0 if isinstance(scope, ast.Module) else scope.lineno


def _length(scope: Function) -> int:
    return (scope.end_lineno or 0) - first_line(scope)
