"""Run folders on a disk with their rings on tmpfs, and ranks that do not outlive their test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from distwatch.observer.daemon import Observer
from distwatch.observer.journals.journal_intake import remove_if_empty
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder
from tests.observer.rank_process import RankProcess


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    """An empty run folder, outside pytest's long names: a Unix socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dw-", dir="/tmp") as place:
        made = RunFolder(f"{place}/runs/r")
        made.create()
        yield made
        shutil.rmtree(made.volatile, ignore_errors=True)
        remove_if_empty(str(Path(made.volatile).parent))


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


@pytest_asyncio.fixture
async def observer(folder: RunFolder) -> AsyncIterator[Observer]:
    """A served observer, driven tick by tick."""
    made = Observer(folder)
    server = ViewerServer(made)
    await server.start()
    yield made
    await server.close()
    await made.finish("the test ends")
