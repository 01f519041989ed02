"""Jobs of real ranks take longer than other tests: their own waits end first, and tell more."""

from __future__ import annotations

from pathlib import Path

import pytest

TIMEOUT_S = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        own = item.get_closest_marker("timeout")
        if own is None and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
