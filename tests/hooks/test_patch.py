"""Patches own their undo."""

from __future__ import annotations

import sys
import types

import pytest

from distwatch.hooks.patch import PatchSet


def a_module(name: str = "library") -> types.ModuleType:
    module = types.ModuleType(name)
    exec("def work(x):\n    return x + 1\nother = 5", vars(module))
    return module


def test_undo_puts_the_original_back() -> None:
    module = a_module()
    original = module.work
    patches = PatchSet()
    patches.replace(module, "work", lambda x: -x)
    assert module.work(1) == -1
    assert patches.undo()
    assert module.work is original


def test_a_failing_patch_takes_the_earlier_ones_back() -> None:
    module = a_module()
    original = module.work
    patches = PatchSet()
    patches.replace(module, "work", lambda x: -x)
    with pytest.raises(AttributeError):
        patches.replace(module, "absent", None)
    assert module.work is original
    assert len(patches) == 0


def test_what_somebody_wrapped_later_stays() -> None:
    module = a_module()
    patches = PatchSet()
    ours = lambda x: -x  # noqa: E731
    patches.replace(module, "work", ours)
    theirs = lambda x: ours(x) * 10  # noqa: E731
    module.work = theirs
    assert not patches.undo()
    assert module.work is theirs


def test_early_imports_are_found_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module, user = a_module(), types.ModuleType("user_code")
    user.work = user.alias = module.work  # type: ignore[attr-defined]
    user.number = 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "user_code", user)
    original, replacement = module.work, lambda x: -x
    patches = PatchSet()
    assert patches.rebind(original, replacement) == 2
    assert user.work(1) == user.alias(1) == -1
    patches.undo()
    assert user.work is user.alias is original
    assert patches.rebind(5, replacement) == 0


def test_a_module_that_minds_assignments_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(types.ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"no setting {name}")

    module, config = a_module(), Config("config_module")
    vars(config)["work"] = module.work
    monkeypatch.setitem(sys.modules, "config_module", config)
    patches = PatchSet()
    assert patches.rebind(module.work, lambda x: -x) == 0
    assert config.work is module.work
