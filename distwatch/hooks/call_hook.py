"""Wraps a function to observe its calls: the original runs exactly once, outside distwatch's guard."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from distwatch.agent.guard import guard, guard_end, is_off

_SEEING = "__distwatch_seeing__"
"""The attribute that a wrapper shares with its copies: a list of one flag."""


class CallHook:
    """Called around each call of one function. Both methods run under the guard and may fail."""

    original: Callable[..., Any]
    """The original function; `observe` sets it."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs before the call. Returns the `token` for `after`; None: `after` does not run."""
        return True

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        """The call returned `result` or raised `error`."""

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults included, as far as they fit its signature."""
        return arguments_of(self.original, args, kwargs) or kwargs


def arguments_of(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a call by name, for any version's signature, defaults included.

    None where they do not fit: then the original raises for the user.
    """
    try:
        bound = inspect.signature(call).bind_partial(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return bound.arguments


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    """One argument of a call, by its position or its name; None where it is missing."""
    return args[position] if len(args) > position else kwargs.get(name)


def observe(name: str, original: Callable[..., Any], hook: CallHook) -> Callable[..., Any]:
    """A wrapper of `original` with its signature, results and exceptions.

    Args:
        name: of the hook; a failure is logged under it and switches the hook off.
    """

    seeing = [True]
    hook.original = original

    def after(token: Any, result: Any, error: BaseException | None) -> None:
        # Another call of this hook may have failed meanwhile: this call must still end.
        if token is not None:
            guard_end(name, hook.after, token, result, error)

    @functools.wraps(original)
    def observed(*args: Any, **kwargs: Any) -> Any:
        if not seeing[0] or is_off(name):
            return original(*args, **kwargs)
        token = guard(name, hook.before, args, kwargs)
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
    """Makes a wrapper pass calls through, wherever it has been wrapped, bound or copied since."""
    function = getattr(replacement, "__func__", replacement)
    flag = getattr(function, "__dict__", {}).get(_SEEING)
    if flag is not None:
        flag[0] = False


def observe_method(name: str, descriptor: Any, hook: CallHook) -> Any:
    """Like `observe`, for an entry of a class's `__dict__`, including class and static methods."""
    if isinstance(descriptor, (classmethod, staticmethod)):
        return type(descriptor)(observe(name, descriptor.__func__, hook))
    return observe(name, descriptor, hook)
