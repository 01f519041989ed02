"""Whether the loops around a rank's place come to an end by themselves, by their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Literal

from distwatch.diagnosis.facts.user_frame import is_of_library
from distwatch.diagnosis.why.source import Scope, Source, called_name, covers, read_source, within
from distwatch.state.events import Frame, SourceFileRead

Loops = Literal["unknown", "ends", "called_again", "unending"]
"""Of the innermost function of the person's code: it ends; it ends, but a loop that need not end may call it
again and again; or it is in such a loop itself."""
_ENDLESS = frozenset(("count", "cycle"))
_CLOCKS = frozenset(
    ("monotonic", "time", "perf_counter", "monotonic_ns", "time_ns", "process_time")
)
_SHRINKS = frozenset(("pop", "popleft", "popitem", "remove", "discard", "clear"))
_FOREIGN = ("ctypes", "CDLL", "PyDLL", "cffi", "dlopen")
"""Native code of one's own: nothing shows that it ends."""


def loops_around(files: Mapping[str, SourceFileRead], frames: tuple[Frame, ...]) -> Loops:
    """What the loops around a stack's lines in the person's code say; `unknown` where that was not read."""
    users = [frame for frame in frames if not is_of_library(frame)]
    if not users or (innermost := _source(files, users[-1])) is None:
        return "unknown"
    if _loops_on(innermost, users[-1]) or _is_foreign(innermost, users[-1]):
        return "unending"
    for frame in users[:-1]:
        source = _source(files, frame)
        if source is None or _loops_on(source, frame):
            return "called_again"
    return "ends"


def _source(files: Mapping[str, SourceFileRead], frame: Frame) -> Source | None:
    read = files.get(frame.file)
    return read_source(read.text) if read is not None and read.text else None


def _loops_on(source: Source, frame: Frame) -> bool:
    """Whether a loop around that line, in its function, need not end."""
    scope = source.scope_at(frame.line, frame.function.rpartition(".")[2])
    return any(map(_need_not_end, _loops_at(scope, frame.line)))


def _loops_at(scope: Scope, line: int) -> Iterator[ast.stmt]:
    for node in within(scope):
        if isinstance(node, (ast.While, ast.For, ast.AsyncFor)):
            after = node.orelse
            if covers(node, line) and not (after and line >= after[0].lineno):
                yield node


def _need_not_end(loop: ast.stmt) -> bool:
    if isinstance(loop, ast.While):
        return not any(_comes_nearer(loop, node) for node in ast.walk(loop.test))
    iterated = loop.iter if isinstance(loop, ast.For) else None
    if not isinstance(iterated, ast.Call):
        return False
    name = called_name(iterated)
    return name in _ENDLESS or (
        name in ("iter", "repeat") and len(iterated.args) == (2 if name == "iter" else 1)
    )


def _comes_nearer(loop: ast.While, tested: ast.AST) -> bool:
    """Whether the loop itself moves this part of its condition: a clock, a counter, a list that it empties."""
    if isinstance(tested, ast.Call):
        return called_name(tested) in _CLOCKS
    if not isinstance(tested, ast.Name):
        return False
    return any(_moves(node, tested.id) for statement in loop.body for node in ast.walk(statement))


def _moves(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.AugAssign):
        return _is_named(node.target, name)
    if isinstance(node, ast.Assign):
        named = any(_is_named(one, name) for target in node.targets for one in ast.walk(target))
        # `node = node.next`, `low = middle + 1`: made from what was there, not asked of anybody.
        return named and not any(isinstance(one, ast.Call) for one in ast.walk(node.value))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in _SHRINKS and _is_named(node.func.value, name)
    return False


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_foreign(source: Source, frame: Frame) -> bool:
    """Whether that line calls into a library through ctypes or cffi."""
    scope = source.scope_at(frame.line, frame.function.rpartition(".")[2])
    names: set[str] = set()
    for node in within(scope):
        if isinstance(node, ast.Call) and covers(node, frame.line):
            names |= {one.id for one in ast.walk(node.func) if isinstance(one, ast.Name)}
    return bool(names & _foreign_names(source))


def _foreign_names(source: Source) -> set[str]:
    """Names that stand for such a library, and for those modules."""
    found = set(_FOREIGN)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign) and any(
            word in source.segment(node.value) for word in _FOREIGN
        ):
            found |= {
                one.id
                for target in node.targets
                for one in ast.walk(target)
                if isinstance(one, ast.Name)
            }
    return found
