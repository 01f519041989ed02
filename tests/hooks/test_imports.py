"""Post-import hooks: whoever else looks at imports goes on as before."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from distwatch.agent import guard
from distwatch.hooks import imports
from distwatch.hooks.imports import when_imported


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "a_library.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(imports, "_callbacks", {})
    finders = list(sys.meta_path)
    yield "a_library"
    if imports._FINDER not in finders:
        sys.meta_path.remove(imports._FINDER)
    sys.modules.pop("a_library", None)
    assert list(sys.meta_path) == finders, "a finder was lost or left behind"


def test_called_back_once_the_module_is_whole(library: str) -> None:
    seen: list[int] = []
    when_imported(library, lambda module: seen.append(module.value))
    assert seen == []
    module = importlib.import_module(library)
    assert seen == [1]
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__


def test_at_once_where_it_is_loaded_and_again_on_reload(library: str) -> None:
    module = importlib.import_module(library)
    seen: list[ModuleType] = []
    when_imported(library, seen.append)
    assert seen == [module]
    importlib.reload(module)
    assert seen == [module, module]


def test_a_callback_may_ask_for_more(library: str) -> None:
    seen: list[str] = []
    when_imported(library, lambda _: when_imported(library, lambda _: seen.append("inner")))
    importlib.import_module(library)
    assert seen == ["inner"]


def test_a_callback_that_raises_fails_no_import(
    library: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "transparent", False)

    def broken(_: ModuleType) -> None:
        raise ZeroDivisionError("ours")

    when_imported(library, broken)
    assert importlib.import_module(library).value == 1
    assert "ours" in caplog.text


def test_a_missing_module_stays_missing(library: str) -> None:
    when_imported("no_such_library", lambda _: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_library")


def test_a_finder_of_others_still_finds_first(library: str) -> None:
    asked: list[str] = []

    class Theirs:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            asked.append(name)

    sys.meta_path.insert(0, Theirs)  # type: ignore[arg-type]
    try:
        when_imported(library, lambda _: None)
        importlib.import_module(library)
        assert library in asked
        assert Theirs in sys.meta_path
    finally:
        sys.meta_path.remove(Theirs)  # type: ignore[arg-type]


def test_a_loader_of_the_old_kind_still_loads(library: str) -> None:
    class Old:
        @staticmethod
        def load_module(name: str) -> ModuleType:
            module = sys.modules[name] = ModuleType(name)
            module.value = 7  # type: ignore[attr-defined]
            return module

    class Theirs:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            return importlib.util.spec_from_loader(name, Old()) if name == library else None  # type: ignore[arg-type]

    sys.meta_path.insert(0, Theirs)  # type: ignore[arg-type]
    try:
        when_imported(library, lambda _: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)
            assert importlib.import_module(library).value == 7
    finally:
        sys.meta_path.remove(Theirs)  # type: ignore[arg-type]
