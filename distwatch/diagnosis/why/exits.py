"""What leads out of a function or a loop before its end, or to another round of a loop."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from distwatch.diagnosis.why.guard import (
    EXITS,
    LOOPS,
    TRIES,
    Guard,
    Kind,
    handler_text,
    header_of,
)
from distwatch.diagnosis.why.source import Source, called_name

_ENDS = frozenset(("exit", "_exit", "quit", "abort"))


def exits_of(
    source: Source, statements: Iterable[ast.stmt], loop: ast.AST | None
) -> Iterator[Guard]:
    """The conditional exits in some statements; `continue` and `break` only of the given loop."""
    waiting: list[tuple[ast.AST, Guard | None, ast.AST | None]] = [
        (statement, None, loop) for statement in statements
    ]
    while waiting:
        node, condition, inner = waiting.pop(0)
        kind = exit_kind(node)
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


def again_of(source: Source, loop: ast.For | ast.AsyncFor | ast.While) -> Iterator[Guard]:
    """What leads to another round of a loop that is left in its first one, if nothing happens: a retry."""
    attempts = [node for node in loop.body if isinstance(node, TRIES)]
    whole = (*loop.body, *(inner for node in attempts for inner in (*node.body, *node.orelse)))
    if not any(exit_kind(node) in ("break", "return") for node in whole):
        return
    for attempt in attempts:
        for handler in attempt.handlers:
            if not any(exit_kind(one) in EXITS - {"continue"} for one in handler.body):
                yield Guard(
                    kind="except", node=handler, arm="again", line=handler.lineno,
                    text=handler_text(source, handler),
                    tests=(handler.type,) if handler.type else (),
                )  # fmt: skip


def _parts(
    source: Source, node: ast.AST, loop: ast.AST | None
) -> Iterator[tuple[ast.AST, Guard | None, ast.AST | None]]:
    """The statements inside one, each with the condition under which it runs and its loop."""
    if isinstance(node, ast.If):
        header = header_of(source, node)
        for arm, body in (("body", node.body), ("else", node.orelse)):
            text = header if arm == "body" else f"else of `{header}`"
            guard = Guard(
                kind="branch", node=node, arm=arm, line=node.lineno, text=text, tests=(node.test,)
            )
            yield from ((child, guard, loop) for child in body)
    elif isinstance(node, LOOPS):
        yield from ((child, None, node) for child in node.body)
        yield from ((child, None, loop) for child in node.orelse)
    elif isinstance(node, TRIES):
        yield from ((child, None, loop) for child in (*node.body, *node.orelse, *node.finalbody))
        for handler in node.handlers:
            text = handler_text(source, handler)
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


def exit_kind(node: ast.AST) -> Kind | None:
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
