"""Which ranks a condition like `rank == 0` lets in, where it names one."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from distwatch.diagnosis.why.guard import EXITS, Guard

_RANKS = frozenset(("rank", "global_rank", "get_rank"))


def is_ruled_out(guard: Guard, ranks: Iterable[int]) -> bool:
    """Whether one of these ranks cannot have taken that guard, by its own words."""
    if len(guard.tests) != 1 or guard.kind not in ("branch", "conditional", *EXITS):
        return False
    wanted = not guard.text.startswith("else of") if guard.is_exit else guard.arm != "else"
    return any(_holds(guard.tests[0], rank) is (not wanted) for rank in ranks)


def _holds(test: ast.expr, rank: int) -> bool | None:
    """Whether `rank == 0` or `rank != 0` holds for a rank; None of any other test."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    number = test.comparators[0]
    if not isinstance(number, ast.Constant) or not isinstance(number.value, int):
        return None
    named = test.left.func if isinstance(test.left, ast.Call) else test.left
    name = named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")
    if name not in _RANKS:
        return None
    if isinstance(test.ops[0], ast.Eq):
        return rank == number.value
    return rank != number.value if isinstance(test.ops[0], ast.NotEq) else None
