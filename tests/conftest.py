"""What holds for every test: guards are transparent, and nothing is left running."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distwatch.agent import guard
from distwatch.runfolder import RunFolder

pytest_plugins = ("tests.support.endings", "tests.support.without_torch")


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


@pytest.fixture(autouse=True)
def no_memory_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes the rings of run folders under the test's tmp_path: their tmpfs is no temp folder."""
    if "tmp_path" not in request.fixturenames:
        yield
        return
    run = RunFolder(str(request.getfixturevalue("tmp_path") / "run"))
    yield
    place = Path(run.volatile).parent
    if run.volatile != run.path:
        for left in place.parent.glob(f"{place.name}*"):
            shutil.rmtree(left, ignore_errors=True)
