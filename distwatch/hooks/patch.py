"""Patches that own their undo."""

from __future__ import annotations

from typing import Any

from distwatch.hooks.call_hook import stop_seeing


class Patch:
    """One replaced attribute of a module or class."""

    def __init__(self, owner: Any, name: str, replacement: Any) -> None:
        """Replaces at once. The original is taken from the owner's `__dict__`, unbound.

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
        """Puts the original back; False where someone wrapped it later: then ours stays, and sees nothing."""
        stop_seeing(self.replacement)
        if vars(self.owner).get(self.name) is not self.replacement:
            return False
        setattr(self.owner, self.name, self.original)
        return True


class PatchSet:
    """Patches that are undone together, the last one first."""

    def __init__(self) -> None:
        self._patches: list[Patch] = []

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Applies one more; if it fails, all before it are undone."""
        try:
            self._patches.append(Patch(owner, name, replacement))
        except BaseException:
            self.undo()
            raise

    def undo(self) -> bool:
        """Undoes all; False where one had to stay."""
        results = [patch.undo() for patch in reversed(self._patches)]
        self._patches.clear()
        return all(results)

    def __len__(self) -> int:
        return len(self._patches)
