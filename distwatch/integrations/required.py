"""Imports a library that a call of the user's needs; says what to install where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from distwatch.errors import PlanInvalid


def import_required(module: str, needed_by: str, distribution: str) -> Any:
    """The module.

    Raises:
        PlanInvalid: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PlanInvalid(
            f"{needed_by} needs {distribution}, which cannot be imported: {error}",
            advice=f"pip install {distribution}, in the environment of this job.",
        ) from error
