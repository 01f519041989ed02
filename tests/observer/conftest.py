"""Run folders on a disk with their rings on tmpfs, and ranks that do not outlive their test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distwatch.runfolder import RunFolder
from tests.observer.rank_process import RankProcess


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """An empty run folder."""
    made = RunFolder(str(tmp_path / "runs" / "r"))
    made.create()
    yield made
    shutil.rmtree(made.volatile, ignore_errors=True)
    if made.volatile != made.path:
        Path(made.volatile).parent.rmdir()


@pytest.fixture
def start_rank(folder: RunFolder) -> Iterator[Callable[..., RankProcess]]:
    """Starts ranks in that folder."""
    ranks: list[RankProcess] = []

    def start(*arguments: int, **options: int) -> RankProcess:
        ranks.append(RankProcess(folder, *arguments, **options))
        return ranks[-1]

    yield start
    for rank in ranks:
        rank.close()
