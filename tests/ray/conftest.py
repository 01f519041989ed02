"""Each test has a Ray of its own, whose every process is ended by pid with the job; one at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TIMEOUT_S = 180


@pytest.fixture(scope="session", autouse=True)
def ray_temp_dir() -> None:
    """ray.cluster_utils.Cluster writes its address below the default folder, which on a machine where
    no Ray has ever run is not there: it makes only the one that it was given.
    """
    os.makedirs(os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray"), exist_ok=True)


@pytest.hookimpl(tryfirst=True)  # xdist reads the group in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            item.add_marker(pytest.mark.xdist_group("ray"))
