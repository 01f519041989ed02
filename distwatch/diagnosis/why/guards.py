"""What decides whether a line of a function runs: the branches, loops and early exits before it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from distwatch.diagnosis.why.source import (
    FUNCTIONS,
    Scope,
    Source,
    body_of,
    called_name,
    covers,
    within,
)

Kind = Literal[
    "branch", "conditional", "short_circuit", "comprehension", "match", "loop", "no_sync",
    "try", "except", "finally", "return", "continue", "break", "raise", "exit",
]  # fmt: skip
EXITS = frozenset(("return", "continue", "break", "raise", "exit"))
_TRIES = tuple(filter(None, (ast.Try, getattr(ast, "TryStar", None))))
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_ENDS = frozenset(("exit", "_exit", "quit", "abort"))


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """One construct that lets a rank come to a line, or keeps it from it.

    Attributes:
        node: the construct; two lines in it, in the same `arm`, are not separated by it.
        arm: which part of it leads to the line: body, else, except 0, case 2, …
        tests: the expressions that decide.
        text: its condition as it is written.
        loop: for an exit, the innermost loop around it.
    """

    kind: Kind
    node: ast.AST
    arm: str
    line: int
    text: str
    tests: tuple[ast.expr, ...] = ()
    loop: ast.AST | None = None

    @property
    def is_exit(self) -> bool:
        """Whether it keeps a rank from the line, instead of leading to it."""
        return self.kind in EXITS

    def is_shared_with(self, other: Guard) -> bool:
        return self.node is other.node and self.arm == other.arm


def guards_of(source: Source, scope: Scope, line: int, called: Sequence[str] = ()) -> list[Guard]:
    """All guards of a line within its function, the outermost first.

    Args:
        called: names of what is called there, the best first: they tell apart calls on one line.
    """
    return list(_Walk(source, line, called).block(body_of(scope), None))


class _Walk:
    def __init__(self, source: Source, line: int, called: Sequence[str]) -> None:
        self._source = source
        self._line = line
        self._called = called

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
        elif isinstance(statement, _LOOPS):
            yield from self._loop(statement, loop)
        elif isinstance(statement, _TRIES):
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
            yield self._guard("branch", node, arm, _header(self._source, node), node.test)
            yield from self.block(node.body if in_body else node.orelse, loop)

    def _loop(
        self, node: ast.For | ast.AsyncFor | ast.While, loop: ast.AST | None
    ) -> Iterator[Guard]:
        if self._holds(node.orelse):
            yield self._guard("loop", node, "else", _header(self._source, node), _test_of(node))
            yield from self.block(node.orelse, loop)
            return
        # Its header is run once a round: who is there is in the loop.
        yield self._guard("loop", node, "body", _header(self._source, node), _test_of(node))
        for left in exits_of(self._source, node.body, node):
            if left.kind != "continue":
                yield left
        if self._holds(node.body):
            yield from self.block(node.body, node)
        else:
            yield from self._expression(_test_of(node))

    def _attempt(self, node: ast.Try, loop: ast.AST | None) -> Iterator[Guard]:
        first = node.handlers[0] if node.handlers else None
        text = self._source.line(first.lineno) if first else "try:"
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
                    text=self._source.line(handler.lineno),
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
        if "no_sync" in (text := _header(self._source, node)):
            tests = [item.context_expr for item in node.items]
            yield self._guard("no_sync", node, "body", text, *tests)
        if self._holds(node.body):
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
        """The guards inside one statement, on the way to what is called on the line."""
        for name in self._called or ("",):
            calls = [call for call in self._calls_on_line(root) if _is_called(call, name)]
            if calls:
                yield from self._path(root, calls[-1])
                return

    def _calls_on_line(self, root: ast.AST) -> list[ast.Call]:
        return [n for n in within(root) if isinstance(n, ast.Call) and covers(n, self._line)]

    def _calls_in(self, *roots: ast.AST) -> bool:
        return any(
            _is_called(call, name)
            for root in roots
            for call in self._calls_on_line(root)
            for name in self._called
        )

    def _path(self, root: ast.AST, call: ast.Call) -> Iterator[Guard]:
        current = root
        while current is not call:
            below = next((n for n in ast.iter_child_nodes(current) if call in within(n)), None)
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


def exits_of(
    source: Source, statements: Iterable[ast.stmt], loop: ast.AST | None
) -> Iterator[Guard]:
    """The conditional exits in some statements; `continue` and `break` only of the given loop."""
    waiting: list[tuple[ast.AST, Guard | None, ast.AST | None]] = [
        (statement, None, loop) for statement in statements
    ]
    while waiting:
        node, condition, inner = waiting.pop(0)
        kind = _exit_kind(node)
        if kind in ("continue", "break") and inner is not loop:
            continue
        if isinstance(node, ast.Assert):
            text = f"assert {source.segment(node.test)}"
            condition = Guard(
                kind="branch", node=node, arm="", line=node.lineno, text=text, tests=(node.test,)
            )
        if kind is not None:
            if condition is not None:
                yield Guard(
                    kind=kind, node=node, arm="exit", line=condition.line, text=condition.text,
                    tests=condition.tests, loop=inner,
                )  # fmt: skip
            continue
        waiting[:0] = [
            (child, own or condition, around) for child, own, around in _parts(source, node, inner)
        ]


def _parts(
    source: Source, node: ast.AST, loop: ast.AST | None
) -> Iterator[tuple[ast.AST, Guard | None, ast.AST | None]]:
    """The statements inside one, each with the condition under which it runs and its loop."""
    if isinstance(node, ast.If):
        header = _header(source, node)
        for arm, body in (("body", node.body), ("else", node.orelse)):
            text = header if arm == "body" else f"else of `{header}`"
            guard = Guard(
                kind="branch", node=node, arm=arm, line=node.lineno, text=text, tests=(node.test,)
            )
            yield from ((child, guard, loop) for child in body)
    elif isinstance(node, _LOOPS):
        yield from ((child, None, node) for child in node.body)
        yield from ((child, None, loop) for child in node.orelse)
    elif isinstance(node, _TRIES):
        yield from ((child, None, loop) for child in (*node.body, *node.orelse, *node.finalbody))
        for handler in node.handlers:
            text = source.line(handler.lineno)
            guard = Guard(
                kind="except", node=node, arm="", line=handler.lineno, text=text,
                tests=(handler.type,) if handler.type else (),
            )  # fmt: skip
            yield from ((child, guard, loop) for child in handler.body)
    elif isinstance(node, ast.Match):
        for case in node.cases:
            line = case.pattern.lineno
            guard = Guard(
                kind="match", node=node, arm="", line=line, text=source.line(line),
                tests=(node.subject,),
            )  # fmt: skip
            yield from ((child, guard, loop) for child in case.body)
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        yield from ((child, None, loop) for child in node.body)


def _exit_kind(node: ast.AST) -> Kind | None:
    if isinstance(node, ast.Return):
        return "return"
    if isinstance(node, ast.Continue):
        return "continue"
    if isinstance(node, ast.Break):
        return "break"
    if isinstance(node, (ast.Raise, ast.Assert)):
        return "raise"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return "exit" if called_name(node.value) in _ENDS else None
    return None


def _is_called(call: ast.Call, name: str) -> bool:
    return not name or called_name(call) == name


def _test_of(node: ast.For | ast.AsyncFor | ast.While) -> ast.expr:
    return node.test if isinstance(node, ast.While) else node.iter


def _header(source: Source, node: ast.AST) -> str:
    """The first line of a compound statement, to its colon: `if rank == 0:`."""
    body: list[ast.stmt] = getattr(node, "body", [])
    begin = getattr(node, "lineno", 0)
    if not body:
        return source.line(begin)
    if body[0].lineno == begin:
        line = source.lines[begin - 1]
        # ast counts bytes, not characters.
        head = line.encode()[: body[0].col_offset].decode("utf-8", "replace").strip()
    else:
        lines = source.lines[begin - 1 : body[0].lineno - 1]
        head = " ".join(" ".join(line.split("#")[0].split()) for line in lines).strip()
        head = head[: head.rfind(":") + 1] or source.line(begin)
    return head[:160]
