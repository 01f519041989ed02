"""The two ways in which a rank records its collectives: compiled, and by Python alone."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.ranks import JOBS, REPOSITORY

_TEXT = """import pathlib, sys
sys.modules["distwatch.agent._calls"] = None  # importing it now fails, as where there was no compiler
pathlib.Path(__file__).with_name("used").touch()
"""


def by_python_alone(folder: Path) -> dict[str, str]:
    """Variables of ranks that have no compiled record; a rank that was started so leaves `used` there."""
    folder.joinpath("sitecustomize.py").write_text(_TEXT)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), str(JOBS)])}
