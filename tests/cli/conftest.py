"""Roots with recorded runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.runfolder import memory_place, name_in_memory
from tests.cli.runs import save
from tests.diagnosis.recorded import RecordedJob, hung_job


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "runs"
    yield folder
    shutil.rmtree(f"{memory_place()}/{name_in_memory(str(folder))}", ignore_errors=True)


@pytest.fixture
def hung(root: Path) -> Path:
    save(hung_job(), root, "hung")
    return root


@pytest.fixture
def healthy(root: Path) -> Path:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in range(2):
        job.exit(rank, 9.0, code=0)
    save(job, root, "healthy")
    return root
