"""Lets a source tree of neuronx-distributed be imported without what only Neuron devices have.

The packages on the way to its parallel state are there as bare packages: their `__init__` files
import compilers and kernels. The modules below them are the real ones.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def open_source_tree(checkout: str) -> None:
    """Makes `neuronx_distributed.parallel_layers.parallel_state` of that checkout importable."""
    root = os.path.join(checkout, "src", "neuronx_distributed")
    for name in ("", "parallel_layers"):
        full = "neuronx_distributed" + (f".{name}" if name else "")
        spec = ModuleSpec(full, None, is_package=True)
        spec.submodule_search_locations = [os.path.join(root, name)]
        package = ModuleType(full)
        package.__path__ = spec.submodule_search_locations
        package.__spec__ = spec
        package.__file__ = os.path.join(root, name, "__init__.py")
        sys.modules[full] = package
