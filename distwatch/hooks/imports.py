"""Calls back after a module's import, by wrapping the module's loader.

`sys.meta_path` gains one finder and loses none; a callback that raises never fails the user's
import.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Importing importlib.abc and typing takes longer than the rest of distwatch's start.
    import importlib.machinery
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

    Callback = Callable[[ModuleType], None]

_callbacks: dict[str, list[Callback]] = {}


def when_imported(module: str, callback: Callback) -> None:
    """Calls `callback(module)` after each execution of that module; at once if it is already imported."""
    _callbacks.setdefault(module, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    present = sys.modules.get(module)
    # A module that is just being imported is in sys.modules, half initialized.
    spec = getattr(present, "__spec__", None)
    if present is not None and not getattr(spec, "_initializing", False):
        _call_back(present, callback)


def forget_all() -> None:
    """Waits for no module any more."""
    _callbacks.clear()
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


def _call_back(module: ModuleType, callback: Callback) -> None:
    try:
        callback(module)
    except Exception as error:
        import logging

        from distwatch.agent import guard

        if guard.transparent:
            raise
        logging.getLogger("distwatch").warning(
            "distwatch: hooking %s failed; the job continues (%s)", module.__name__, error
        )


class _Finder:
    """Lets the other finders find an awaited module, and wraps its loader."""

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _callbacks or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: importlib.machinery.ModuleSpec | None = find(fullname, path, target)
                if spec is not None:
                    # An old-style loader has no exec_module to wrap.
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                    return spec
        finally:
            self._looking.discard(fullname)
        return None


class _Loader:
    """Passes everything to the real loader, and calls back after the module's code has run."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        return create(spec) if create else None

    def exec_module(self, module: ModuleType) -> None:
        # Code that inspects the module later must see its real loader.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        # A callback may register more callbacks: the list grows during the loop.
        for callback in _callbacks.get(module.__name__, ()):
            _call_back(module, callback)


_FINDER = _Finder()
