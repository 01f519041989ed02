"""A stand-in: no CPU torch has a torchvision here, and SGLang's text path imports it without a call.

Every name of it is an empty class, so that whoever does use one fails at once.
"""

from __future__ import annotations

import sys
from types import ModuleType

__version__ = "0.0.0"
_SUBMODULES = (
    "io",
    "transforms",
    "transforms.functional",
    "transforms.v2",
    "transforms.v2.functional",
)


class _StandIn(ModuleType):
    """A module whose names are classes without anything in them."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        modes = ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC", "LANCZOS", "BOX", "HAMMING")
        made = type(name, (), {mode: mode.lower() for mode in modes})
        setattr(self, name, made)
        return made


for _name in _SUBMODULES:
    _full = f"{__name__}.{_name}"
    sys.modules[_full] = _StandIn(_full)
for _name in _SUBMODULES:
    _parent, _, _child = f"{__name__}.{_name}".rpartition(".")
    setattr(sys.modules[_parent], _child, sys.modules[f"{__name__}.{_name}"])
