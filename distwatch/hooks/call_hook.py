"""Wraps a function so that it is seen: the original runs exactly once, outside our guard."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from distwatch.agent.guard import guard, guard_end, is_off

_SEEING = "__distwatch_seeing__"
"""The attribute of a stand-in that copies of it share: a list of one flag."""


class CallHook(Protocol):
    """What is told of a call. Both methods run under the guard and may fail."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call is about to be made; what is returned comes back as `token`."""
        ...

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        """The call returned `result`, or raised `error`."""
        ...


def observe(name: str, original: Callable[..., Any], observer: CallHook) -> Callable[..., Any]:
    """A stand-in for `original` with its signature, results and exceptions.

    Args:
        name: of the hook, under which a failure is said and switched off.
    """

    seeing = [True]

    def after(token: Any, result: Any, error: BaseException | None) -> None:
        # Another call of this hook may have failed meanwhile: what this one began still ends.
        if token is not None or not is_off(name):
            guard_end(name, observer.after, token, result, error)

    @functools.wraps(original)
    def observed(*args: Any, **kwargs: Any) -> Any:
        if not seeing[0] or is_off(name):
            return original(*args, **kwargs)
        token = guard(name, observer.before, args, kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            after(token, None, error)
            raise
        after(token, result, None)
        return result

    observed.__dict__[_SEEING] = seeing
    return observed


def stop_seeing(replacement: Any) -> None:
    """Makes a stand-in pass calls through, wherever it was wrapped, bound or copied to meanwhile."""
    function = getattr(replacement, "__func__", replacement)
    flag = getattr(function, "__dict__", {}).get(_SEEING)
    if flag is not None:
        flag[0] = False


def observe_method(name: str, descriptor: Any, observer: CallHook) -> Any:
    """As `observe`, for what stands in a class's `__dict__`: class and static methods included."""
    if isinstance(descriptor, (classmethod, staticmethod)):
        return type(descriptor)(observe(name, descriptor.__func__, observer))
    return observe(name, descriptor, observer)
