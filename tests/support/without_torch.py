"""Where torch is not installed: the tests that need it are skipped with a word, all others run.

So other Pythons can be tried within minutes: `make test-python`. Where torch is, nothing is skipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

_NEED_IT = ("ray", "safetensors", "torch", "transformers")
_JOBS_WITHOUT = ("agent_only", "converter", "no_torch")
_ABSENT = importlib.util.find_spec("torch") is None
needs_torch = pytest.mark.skipif(_ABSENT, reason="torch is not installed")
"""For tests that start programs which import it."""


def skip_without_torch(job: Path) -> None:
    """Skips the test that is about to start this job, where the job could not import torch."""
    if _ABSENT and job.stem not in _JOBS_WITHOUT:
        pytest.skip("torch is not installed")


def torch_before(*version: int) -> bool:
    """Whether an older torch is installed: 2.5.1 is before (2, 6)."""
    if _ABSENT:
        return False
    installed = importlib.metadata.version("torch").split(".")
    return tuple(map(int, installed[:2])) < version


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """A file of tests that imports one of them at its top is skipped as a whole."""
    report = yield
    failed = getattr(report, "call", None) and report.call.excinfo
    cause = failed.value.__cause__ if failed else None
    if _ABSENT and isinstance(cause, ModuleNotFoundError):
        name = (cause.name or "").partition(".")[0]
        if name in _NEED_IT:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {name} is not installed")
    return report
