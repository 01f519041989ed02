"""What holds for every test: guards are transparent, and nothing is left running."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from distwatch.agent import guard


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "tests_guard: the guard swallows, as it does in production")


@pytest.fixture(autouse=True)
def transparent_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production swallows what fails inside distwatch, tests re-raise it."""
    monkeypatch.setattr(guard, "transparent", "tests_guard" not in request.keywords)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """A test that leaves a child process behind fails, and the child is ended."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    told = [
        f"{child.pid} {child.name()}" for child in left if child.status() != psutil.STATUS_ZOMBIE
    ]
    for child in left:
        child.kill()
    assert not told, f"left behind: {told}"
