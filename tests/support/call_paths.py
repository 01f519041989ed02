"""The ways in which a rank's collectives become known: compiled, by Python alone, or from no recorder."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.ranks import JOBS, REPOSITORY

_BY_PYTHON = """import pathlib, sys
sys.modules["distwatch.agent._calls"] = None  # importing it now fails, as where there was no compiler
pathlib.Path(__file__).with_name("used").touch()
"""
_UNRECORDED = """import pathlib
import distwatch.integrations.torch_recorder
distwatch.integrations.torch_recorder._DUMPS.clear()  # as torch before 2.8, whose recorder leaves gloo out
pathlib.Path(__file__).with_name("used").touch()
"""


def by_python_alone(folder: Path) -> dict[str, str]:
    """Variables of ranks that have no compiled record; a rank that was started so leaves `used` there."""
    return _beginning_with(_BY_PYTHON, folder)


def without_recorder(folder: Path) -> dict[str, str]:
    """Variables of ranks whose torch records no calls of gloo; a rank that was started so leaves `used` there."""
    return _beginning_with(_UNRECORDED, folder)


def _beginning_with(text: str, folder: Path) -> dict[str, str]:
    folder.joinpath("sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), str(JOBS)])}
