"""One construct of the source that leads to a line or keeps from it, with its text."""

from __future__ import annotations

import ast
from typing import Literal

import msgspec

from distwatch.diagnosis.why.source import Source

Kind = Literal[
    "branch", "conditional", "short_circuit", "comprehension", "match", "loop", "no_sync",
    "try", "except", "finally", "return", "continue", "break", "raise", "exit", "value",
    "cached",
]  # fmt: skip
EXITS = frozenset(("return", "continue", "break", "raise", "exit"))
TRIES = tuple(filter(None, (ast.Try, getattr(ast, "TryStar", None))))
LOOPS = (ast.For, ast.AsyncFor, ast.While)


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

    @property
    def is_over_literal(self) -> bool:
        """Whether it is a loop with as many rounds on each rank as are written down: an exit has to part them."""
        node = self.node
        return (
            self.kind == "loop"
            and isinstance(node, (ast.For, ast.AsyncFor))
            and isinstance(node.iter, (ast.List, ast.Tuple))
            and not any(isinstance(one, ast.Starred) for one in node.iter.elts)
        )

    def is_shared_with(self, other: Guard) -> bool:
        return self.node is other.node and self.arm == other.arm


def choice_guard(source: Source, node: ast.IfExp) -> Guard:
    """What chooses between two values, shown by its line."""
    return Guard(
        kind="conditional", node=node, arm="", line=node.lineno, text=source.code(node.lineno),
        tests=(node.test,),
    )  # fmt: skip


def handler_text(source: Source, handler: ast.ExceptHandler) -> str:
    """`except ValueError as error:`, without a comment behind it."""
    caught = f" {source.segment(handler.type)}" if handler.type else ""
    return f"except{caught}{f' as {handler.name}' if handler.name else ''}:"


def header_of(source: Source, node: ast.AST) -> str:
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
