"""What decides whether a line of a function runs: the branches, loops and early exits before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from distwatch.diagnosis.why.contexts import chosen_no_sync, swallows, switched_sync
from distwatch.diagnosis.why.exits import again_of, exits_of
from distwatch.diagnosis.why.guard import LOOPS, TRIES, Guard, Kind, handler_text, header_of
from distwatch.diagnosis.why.source import (
    FUNCTIONS,
    Scope,
    Source,
    body_of,
    called_name,
    covers,
    within,
)

_CALLS_FOR_EACH = frozenset(("map", "filter", "starmap", "reduce", "takewhile", "dropwhile"))
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def guards_of(source: Source, scope: Scope, line: int, called: Sequence[str] = ()) -> list[Guard]:
    """All guards of a line within its function, the outermost first.

    Args:
        called: names of what is called there, the best first: they tell apart calls on one line.
    """
    found = list(_Walk(source, scope, line, called).block(body_of(scope), None))
    return [*found, *switched_sync(source, scope, line)] if "backward" in called else found


def guards_to(source: Source, node: ast.AST) -> list[Guard]:
    """All guards of one expression within its function, on its line, too."""
    line = getattr(node, "lineno", 0)
    scope = source.scope_at(line)
    if scope is node:
        scope = source.scopes_around(scope)[0]
    return list(_Walk(source, scope, line, (), node).block(body_of(scope), None))


class _Walk:
    def __init__(
        self,
        source: Source,
        scope: Scope,
        line: int,
        called: Sequence[str],
        target: ast.AST | None = None,
    ) -> None:
        self._source = source
        self._scope = scope
        self._line = line
        self._called = called
        self._target = target

    def block(self, body: Sequence[ast.stmt], loop: ast.AST | None) -> Iterator[Guard]:
        """Down to the statement of the line, with the exits that lie before it."""
        place = next((n for n, statement in enumerate(body) if covers(statement, self._line)), None)
        if place is None:
            return
        for earlier in body[:place]:
            yield from exits_of(self._source, [earlier], loop)
        yield from self._inside(body[place], loop)

    def _inside(self, statement: ast.stmt, loop: ast.AST | None) -> Iterator[Guard]:
        if isinstance(statement, ast.If):
            yield from self._branch(statement, loop)
        elif isinstance(statement, LOOPS):
            yield from self._loop(statement, loop)
        elif isinstance(statement, TRIES):
            yield from self._attempt(statement, loop)
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            yield from self._with(statement, loop)
        elif isinstance(statement, ast.Match):
            yield from self._match(statement, loop)
        elif isinstance(statement, ast.ClassDef):
            yield from self.block(statement.body, None)
        elif not isinstance(statement, FUNCTIONS):
            yield from self._expression(statement)

    def _holds(self, body: Sequence[ast.stmt]) -> bool:
        return any(covers(statement, self._line) for statement in body)

    def _branch(self, node: ast.If, loop: ast.AST | None) -> Iterator[Guard]:
        in_body, in_else = self._holds(node.body), self._holds(node.orelse)
        if covers(node.test, self._line) and (
            not (in_body or in_else)
            or (self._calls_in(node.test) and not self._calls_in(*node.body))
        ):
            yield from self._expression(node.test)
        elif in_body or in_else:
            arm = "body" if in_body else "else"
            yield self._guard("branch", node, arm, header_of(self._source, node), node.test)
            yield from self.block(node.body if in_body else node.orelse, loop)

    def _loop(
        self, node: ast.For | ast.AsyncFor | ast.While, loop: ast.AST | None
    ) -> Iterator[Guard]:
        if self._holds(node.orelse):
            # Only a break keeps a rank from the else of a loop, however many rounds it has.
            breaks = [one for one in exits_of(self._source, node.body, node) if one.kind == "break"]
            yield from breaks
            if not breaks:
                yield self._guard(
                    "loop", node, "else", header_of(self._source, node), _test_of(node)
                )
            yield from self.block(node.orelse, loop)
            return
        # Its header is run once a round: who is there is in the loop.
        yield self._guard("loop", node, "body", header_of(self._source, node), _test_of(node))
        for left in exits_of(self._source, node.body, node):
            if left.kind != "continue":
                yield left
        yield from again_of(self._source, node)
        if self._holds(node.body):
            yield from self.block(node.body, node)
        else:
            yield from self._expression(_test_of(node))

    def _attempt(self, node: ast.Try, loop: ast.AST | None) -> Iterator[Guard]:
        first = node.handlers[0] if node.handlers else None
        text = handler_text(self._source, first) if first else "try:"
        tests = (first.type,) if first and first.type else ()
        line = first.lineno if first else node.lineno
        if self._holds(node.body):
            if node.handlers:
                yield Guard(kind="try", node=node, arm="body", line=line, text=text, tests=tests)
            elif node.finalbody:
                yield self._finally(node, "body")
            yield from self.block(node.body, loop)
        for number, handler in enumerate(node.handlers):
            if covers(handler, self._line):
                yield Guard(
                    kind="except", node=node, arm=f"except {number}", line=handler.lineno,
                    text=handler_text(self._source, handler),
                    tests=(handler.type,) if handler.type else (),
                )  # fmt: skip
                yield from self.block(handler.body, loop)
        if self._holds(node.orelse):
            yield Guard(kind="try", node=node, arm="orelse", line=line, text=text, tests=tests)
            yield from self.block(node.orelse, loop)
        if self._holds(node.finalbody):
            yield self._finally(node, "finally")
            yield from self.block(node.finalbody, loop)

    def _finally(self, node: ast.Try, arm: str) -> Guard:
        above = node.finalbody[0].lineno
        line = next(
            (n for n in range(above, node.lineno, -1) if "finally" in self._source.line(n)), above
        )
        return Guard(kind="finally", node=node, arm=arm, line=line, text="finally:")

    def _with(self, node: ast.With | ast.AsyncWith, loop: ast.AST | None) -> Iterator[Guard]:
        if "no_sync" in (text := header_of(self._source, node)):
            tests = [item.context_expr for item in node.items]
            yield self._guard("no_sync", node, "body", text, *tests)
        else:
            for item in node.items:
                if isinstance(item.context_expr, ast.Name):
                    yield from chosen_no_sync(self._source, self._scope, item.context_expr.id)
        if self._holds(node.body):
            if any(swallows(self._source, self._scope, item.context_expr) for item in node.items):
                yield self._guard("try", node, "body", text)
            yield from self.block(node.body, loop)
        else:
            for item in node.items:
                yield from self._expression(item.context_expr)

    def _match(self, node: ast.Match, loop: ast.AST | None) -> Iterator[Guard]:
        for number, case in enumerate(node.cases):
            if self._holds(case.body):
                line = case.pattern.lineno
                tests = (node.subject, *((case.guard,) if case.guard else ()))
                text = self._source.line(line)
                text = text[: text.rfind(":") + 1] if case.body[0].lineno == line else text
                yield Guard(
                    kind="match", node=node, arm=f"case {number}", line=line, text=text, tests=tests
                )
                yield from self.block(case.body, loop)

    # ---- expressions ---------------------------------------------------------------------

    def _expression(self, root: ast.AST) -> Iterator[Guard]:
        """The guards inside one statement, on the way to what is called on the line, or to the given node."""
        if self._target is not None:
            yield from self._path(root, self._target)
            return
        for name in self._called or ("",):
            calls = [call for call in self._calls_on_line(root) if _is_called(call, name)]
            if calls:
                yield from self._path(root, calls[-1])
                return
        for call in self._calls_on_line(root):
            if called_name(call) in _CALLS_FOR_EACH and self._is_given(call):
                yield from self._path(root, call)
                text = self._source.segment(root)
                yield self._guard("comprehension", call, "element", text, *call.args[1:])
                return

    def _is_given(self, call: ast.Call) -> bool:
        """Whether what is called on the line is passed to that call, as to `map(check, layers)`."""
        first = call.args[0] if call.args else None
        name = first.id if isinstance(first, ast.Name) else getattr(first, "attr", "")
        return name in self._called

    def _calls_on_line(self, root: ast.AST) -> list[ast.Call]:
        return [n for n in within(root) if isinstance(n, ast.Call) and covers(n, self._line)]

    def _calls_in(self, *roots: ast.AST) -> bool:
        return any(
            _is_called(call, name)
            for root in roots
            for call in self._calls_on_line(root)
            for name in self._called
        )

    def _path(self, root: ast.AST, target: ast.AST) -> Iterator[Guard]:
        current = root
        while current is not target:
            below = next((n for n in ast.iter_child_nodes(current) if target in within(n)), None)
            if below is None:
                return
            yield from self._around(current, below)
            current = below

    def _around(self, node: ast.AST, below: ast.AST) -> Iterator[Guard]:
        if isinstance(node, ast.BoolOp) and below is not node.values[0]:
            place = next(n for n, value in enumerate(node.values) if value is below)
            word = "and" if isinstance(node.op, ast.And) else "or"
            before = f" {word} ".join(self._source.segment(v) for v in node.values[:place])
            yield self._guard(
                "short_circuit", node, str(place), f"{before} {word}", *node.values[:place]
            )
        elif isinstance(node, ast.IfExp) and below is not node.test:
            arm = "body" if below is node.body else "else"
            yield self._guard("conditional", node, arm, self._source.segment(node), node.test)
        elif isinstance(node, _COMPREHENSIONS) and not isinstance(below, ast.comprehension):
            ifs = [test for one in node.generators for test in one.ifs]
            tests = ifs or [one.iter for one in node.generators]
            yield self._guard("comprehension", node, "element", self._source.segment(node), *tests)

    def _guard(self, kind: Kind, node: ast.AST, arm: str, text: str, *tests: ast.expr) -> Guard:
        line = getattr(node, "lineno", self._line)
        return Guard(kind=kind, node=node, arm=arm, line=line, text=text, tests=tests)


def _is_called(call: ast.Call, name: str) -> bool:
    return not name or called_name(call) == name


def _test_of(node: ast.For | ast.AsyncFor | ast.While) -> ast.expr:
    return node.test if isinstance(node, ast.While) else node.iter
