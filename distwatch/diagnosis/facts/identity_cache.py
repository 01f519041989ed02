"""Work that is done once for what very many ranks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_KEPT = 4096


def cache_by_identity(function: Callable[[_Argument], _Result]) -> Callable[[_Argument], _Result]:
    """Calls a pure function once for each object, not for each equal value.

    Equal stacks of a run are one object (`decode_event`), and hashing one takes as long as reading it.
    The argument has to be immutable; it is kept alive, so that no other object gets its id.
    """
    known: dict[int, tuple[_Argument, _Result]] = {}

    @wraps(function)
    def called(argument: _Argument) -> _Result:
        found = known.get(id(argument))
        if found is not None:
            return found[1]
        if len(known) >= _KEPT:
            known.clear()
        result = function(argument)
        known[id(argument)] = argument, result
        return result

    return called
