"""The promise to the host: results, exceptions and signatures stay, the original runs once."""

from __future__ import annotations

import inspect
import pickle
import types
from typing import Any

import pytest

from distwatch.agent import guard
from distwatch.hooks.call_hook import CallHook, observe, observe_method
from distwatch.hooks.patch import PatchSet


@pytest.fixture(autouse=True)
def fresh_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "transparent", False)
    monkeypatch.setattr(guard, "_off", set())


class Recorder(CallHook):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append(("before", args, kwargs))
        return "token"

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        self.calls.append(("after", token, result, error))


class Broken(CallHook):
    def __init__(self, where: str) -> None:
        self.where = where

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.where == "before":
            raise ZeroDivisionError("ours")
        return "token"

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if self.where == "after":
            raise ZeroDivisionError("ours")


runs: list[int] = []


def work(x: int, *, y: int = 2) -> int:
    """Adds."""
    runs.append(x)
    if x < 0:
        raise ValueError("theirs")
    return x + y


def test_results_signature_and_documentation_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    observed = observe("hook", work, recorder)
    assert observed(1, y=3) == 4
    assert inspect.signature(observed) == inspect.signature(work)
    monkeypatch.setitem(globals(), "work", observed)
    assert pickle.loads(pickle.dumps(observed)) is observed, "by name, as the original was"
    assert (observed.__name__, observed.__doc__, observed.__module__) == ("work", "Adds.", __name__)
    assert recorder.calls == [("before", (1,), {"y": 3}), ("after", "token", 4, None)]


def test_the_users_exception_passes_untouched() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="theirs") as caught:
        observe("hook", work, recorder)(-1)
    assert caught.value.__context__ is None
    assert recorder.calls[-1] == ("after", "token", None, caught.value)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("x", [1, -1])
def test_a_broken_observer_switches_itself_off_and_harms_nothing(where: str, x: int) -> None:
    runs.clear()
    observed = observe("broken", work, Broken(where))
    for _ in range(2):
        if x < 0:
            with pytest.raises(ValueError, match="theirs"):
                observed(x)
        else:
            assert observed(x) == 3
    assert runs == [x, x], "the original must run exactly once a call"
    assert guard.is_off("broken")


def test_what_began_before_its_hook_was_switched_off_still_ends() -> None:
    recorder = Recorder()

    def outer() -> None:
        guard.switch_off("hook", RuntimeError("in another call of the same hook"))

    observe("hook", outer, recorder)()
    observe("hook", work, recorder)(1)
    assert [call[0] for call in recorder.calls] == ["before", "after"]


def test_a_call_that_is_of_no_interest_is_not_told_of_again() -> None:
    class Bored(Recorder):
        def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return None

    observe("hook", work, bored := Bored())(1)
    assert bored.calls == []


def test_arguments_are_given_by_name_with_their_defaults() -> None:
    observe("hook", work, recorder := Recorder())
    assert recorder.given((1,), {}) == {"x": 1, "y": 2}
    assert recorder.given((), {"z": 3}) == {"z": 3}, "the user's mistake stays the user's"


def test_a_keyboard_interrupt_is_the_users() -> None:
    class Interrupted(Recorder):
        def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe("hook", work, Interrupted())(1)


def test_class_and_static_methods_stay_what_they_are() -> None:
    class Model:
        @classmethod
        def make(cls, x: int) -> tuple[type, int]:
            return cls, x

        @staticmethod
        def plain(x: int) -> int:
            return x

    class Child(Model):
        pass

    recorder = Recorder()
    for name in ("make", "plain"):
        setattr(Model, name, observe_method("hook", vars(Model)[name], recorder))
    assert Child.make(3) == (Child, 3)
    assert Model().plain(4) == 4
    assert recorder.calls[0] == ("before", (Child, 3), {})


def test_copies_of_a_stand_in_see_nothing_once_it_is_undone() -> None:
    """transformers copies `from_pretrained` of its Auto base class into every Auto class."""
    owner = types.SimpleNamespace(double=lambda x: 2 * x)
    seen: list[str] = []

    class Told(CallHook):
        def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            seen.append("called")

    patches = PatchSet()
    patches.observe("a hook", owner, "double", Told())
    hooked = owner.double
    copied = types.FunctionType(
        hooked.__code__,
        hooked.__globals__,
        hooked.__name__,
        hooked.__defaults__,
        hooked.__closure__,
    )
    assert (copied(2), seen) == (4, ["called"])
    assert patches.undo()
    assert (copied(3), hooked(3), owner.double(3), seen) == (6, 6, 6, ["called"])
