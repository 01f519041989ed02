"""Wraps a function so that it is seen: the original runs exactly once, outside our guard."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from distwatch.agent.guard import guard, guard_end, is_off

_SEEING = "__distwatch_seeing__"
"""The attribute of a stand-in that copies of it share: a list of one flag."""


class CallHook:
    """What is told of the calls of one function. Both methods run under the guard and may fail."""

    original: Callable[..., Any]
    """The function itself; `observe` sets it."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call is about to be made. What is returned is the `token`; None: `after` is not told."""
        return True

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        """The call returned `result`, or raised `error`."""

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults included, as far as they fit its signature."""
        return arguments_of(self.original, args, kwargs) or kwargs


def arguments_of(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a call by name, whatever version's signature it has, defaults included.

    None where they do not fit: the user's mistake, of which the original tells them.
    """
    try:
        bound = inspect.signature(call).bind_partial(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return bound.arguments


def observe(name: str, original: Callable[..., Any], observer: CallHook) -> Callable[..., Any]:
    """A stand-in for `original` with its signature, results and exceptions.

    Args:
        name: of the hook, under which a failure is said and switched off.
    """

    seeing = [True]
    observer.original = original

    def after(token: Any, result: Any, error: BaseException | None) -> None:
        # Another call of this hook may have failed meanwhile: what this one began still ends.
        if token is not None:
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
