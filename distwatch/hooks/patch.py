"""Patches that can undo themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from distwatch.hooks.call_hook import CallHook, observe_method, stop_seeing


class Patch:
    """One replaced attribute of a module or class."""

    def __init__(self, owner: Any, name: str, replacement: Any) -> None:
        """Replaces at once. The original comes from the owner's `__dict__`, unbound.

        Raises:
            AttributeError: the owner does not have that attribute itself.
        """
        namespace = vars(owner)
        if name not in namespace:
            raise AttributeError(f"{owner!r} has no {name} of its own")
        self.owner = owner
        self.name = name
        self.original = namespace[name]
        self.replacement = replacement
        setattr(owner, name, replacement)

    def undo(self) -> bool:
        """Restores the original; False where someone wrapped it later: then the wrapper stays and passes through."""
        stop_seeing(self.replacement)
        if vars(self.owner).get(self.name) is not self.replacement:
            return False
        setattr(self.owner, self.name, self.original)
        return True


class PatchSet:
    """Patches that are undone together, the last one first."""

    def __init__(self) -> None:
        self._patches: list[Patch] = []
        self._when_undone: list[Callable[[], object]] = []

    def replace(self, owner: Any, name: str, replacement: Any, *, rebinds: bool = False) -> None:
        """Applies one more patch; if it fails, all earlier ones are undone.

        Args:
            rebinds: also replaces names that `from module import name` bound before.
        """
        original = vars(owner).get(name)
        try:
            self._patches.append(Patch(owner, name, replacement))
        except BaseException:
            self.undo()
            raise
        if rebinds:
            self.rebind(original, replacement)

    def observe(
        self, title: str, owner: Any, name: str, hook: CallHook, *, rebinds: bool = False
    ) -> None:
        """Wraps a function or method with a hook.

        Args:
            title: the name under which a failure is logged and the hook switched off.
        """
        stand_in = observe_method(title, vars(owner)[name], hook)
        self.replace(owner, name, stand_in, rebinds=rebinds)

    def rebind(self, original: Any, replacement: Any) -> int:
        """Replaces module-level names that are still `original`; returns how many there were.

        Only for functions: a value like None or a string is equal in a thousand places.
        """
        if not isinstance(original, FunctionType):
            return 0
        found = 0
        for key, module in list(sys.modules.items()):
            if key.partition(".")[0] == "distwatch" or not _is_plain(module):
                continue
            for name, value in list(vars(module).items()):
                if value is original:
                    self.replace(module, name, replacement)
                    found += 1
        return found

    def when_undone(self, forget: Callable[[], object]) -> None:
        """Calls `forget` when the patches are undone."""
        self._when_undone.append(forget)

    def undo(self) -> bool:
        """Undoes all patches; False where one had to stay."""
        results = [patch.undo() for patch in reversed(self._patches)]
        self._patches.clear()
        for forget in self._when_undone:
            forget()
        self._when_undone.clear()
        return all(results)

    def __len__(self) -> int:
        return len(self._patches)


def _is_plain(module: object) -> bool:
    # A module that overrides assignment (torch's config modules) may check, copy or reject values.
    return isinstance(module, ModuleType) and type(module).__setattr__ is ModuleType.__setattr__
