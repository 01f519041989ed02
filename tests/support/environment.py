"""What a test's processes get of the environment that the tests run in."""

from __future__ import annotations

import os


def inherited_environment() -> dict[str, str]:
    """Without the test's own launcher variables and settings, which must not reach the job."""
    foreign = (
        "DISTWATCH",
        "RANK",
        "WORLD",
        "LOCAL_",
        "MASTER_",
        "TORCH",
        "SLURM",
        "OMPI",
        "PYTEST",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
