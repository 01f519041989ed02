"""Finds names that were bound by `from x import y` before `x.y` was patched."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from distwatch.hooks.patch import PatchSet


def rebind_early_imports(patches: PatchSet, original: Any, replacement: Any) -> int:
    """Replaces module-level names that are still `original`; returns how many there were.

    Functions only: a value like None or a string is equal in a thousand places.
    """
    if not isinstance(original, FunctionType):
        return 0
    found = 0
    for key, module in list(sys.modules.items()):
        if key.partition(".")[0] == "distwatch" or not _is_plain(module):
            continue
        for name, value in list(vars(module).items()):
            if value is original:
                patches.replace(module, name, replacement)
                found += 1
    return found


def _is_plain(module: object) -> bool:
    # A module that overrides assignment (torch's config modules) may check, copy or refuse.
    return isinstance(module, ModuleType) and type(module).__setattr__ is ModuleType.__setattr__
