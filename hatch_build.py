"""Compiles `distwatch/agent/_calls.c` where there is a compiler; without one, distwatch works in Python alone.

hatchling calls it for wheels and editable installs. The binary lies beside its source: an editable
install finds it there.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "distwatch/agent/_calls.c"
BINARY = "distwatch/agent/_calls.abi3.so"


class CompiledCalls(BuildHookInterface[Any]):
    """Adds the compiled module to the wheel, which is then one for all Pythons from 3.10 on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles; a failure is told, and leaves a wheel of pure Python."""
        root = Path(self.root)
        (root / BINARY).unlink(missing_ok=True)
        try:
            compile_calls(root / SOURCE, root / BINARY)
        except Exception as error:
            self.app.display_warning(f"no compiled call record, Python records the calls: {error}")
            return
        build_data["artifacts"].append(BINARY)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp310-abi3-{platform}"


def compile_calls(source: Path, binary: Path) -> None:
    """Compiles the source with the compiler that setuptools finds.

    Raises:
        RuntimeError: this Python has no stable ABI, or the system is none that the source is for.
        Exception: the compiler is missing, or it failed.
    """
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("only CPython with its global lock has the stable ABI")
    if not sys.platform.startswith("linux"):
        raise RuntimeError("only for Linux so far")
    from setuptools import Distribution, Extension

    with tempfile.TemporaryDirectory() as folder:
        extension = Extension(
            "_calls",
            [source.name],
            py_limited_api=True,
            extra_compile_args=["-O2", "-g0", "-Wno-deprecated-declarations"],
        )
        command = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = folder
        shutil.copy(source, folder)
        extension.sources = [f"{folder}/{source.name}"]
        command.ensure_finalized()
        command.run()
        (built,) = Path(folder).rglob("_calls*.so")
        # By renaming: a process that has loaded the old one keeps it whole.
        shutil.copy(built, new := binary.with_suffix(".new"))
        new.replace(binary)
