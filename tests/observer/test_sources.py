"""Live, embedded and recorded runs are one interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from distwatch.observer.daemon import Observer
from distwatch.observer.targets.embedded_run import EmbeddedRun
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.runs import list_runs
from distwatch.runfolder import RunFolder
from distwatch.state.frames import HEADER_SIZE
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


def root_of(folder: RunFolder) -> str:
    return os.path.dirname(folder.path)


async def record(folder: RunFolder, rank: RankProcess) -> None:
    observer = Observer(folder)
    observer.tick()
    rank.do("steps 3")
    rank.do("begin load 5")
    observer.tick()
    rank.exit(0)
    observer.tick()
    await observer.finish("over")


async def test_a_recording_can_be_looked_at_at_any_time(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank()
    await record(folder, rank)
    source = resolve("r", root_of(folder)).source()
    assert isinstance(source, RecordedRun)
    await source.open()
    assert source.span is not None
    assert source.state.processes[rank.key].outside.exit is not None
    at_end = len(source.state.processes[rank.key].steps)
    source.seek(source.span[0])
    assert rank.key not in source.state.processes or (
        source.state.processes[rank.key].outside.exit is None
    )
    source.seek(source.span[1])
    assert len(source.state.processes[rank.key].steps) == at_end == 4
    assert await source.poll() is True
    assert await source.poll() is False
    await source.close()


async def test_a_run_without_observer_is_observed_by_its_viewer(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 2")
    source = resolve(str(rank.pid), root_of(folder)).source()
    assert isinstance(source, EmbeddedRun)
    await source.open()
    try:
        while rank.key not in source.state.processes:
            await source.wait(5)
        # While it observes, it is the run's one observer.
        assert list_runs(root_of(folder))[0].observer_pid == os.getpid()
    finally:
        await source.close()
    assert Path(folder.journal(rank.stem)).stat().st_size > HEADER_SIZE
    assert list_runs(root_of(folder))[0].observer_pid is None


async def test_beside_an_observer_nobody_writes_a_second_time(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank()
    first, second = EmbeddedRun(folder, "a"), EmbeddedRun(folder, "b")
    await first.open()
    await second.open()
    try:
        journals = folder.stems(".journal")
        assert sum(stem.startswith("observer-") for stem in journals) == 1
        while rank.key not in second.state.processes:
            await second.wait(5)
    finally:
        await second.close()
        await first.close()
    assert len(folder.stems(".journal")) == 2


def test_runs_are_listed_even_where_one_is_garbage(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank(0, 2)
    bad = Path(root_of(folder), "bad")
    bad.mkdir()
    (bad / "x.journal").write_bytes(os.urandom(100))
    runs = {run.run_id: run for run in list_runs(root_of(folder))}
    assert set(runs) == {"r", "bad"}
    assert (runs["r"].ranks_seen, runs["r"].ranks_alive, runs["r"].world_size) == (1, 1, 2)
    assert runs["r"].alive
    assert not runs["bad"].alive
    rank.kill()
    assert not list_runs(root_of(folder))[0].alive


def test_the_agent_and_the_observer_do_not_import_what_they_must_not() -> None:
    code = (
        "import sys; import distwatch.observer.__main__; "
        "print(sorted({'textual', 'jinja2', 'torch', 'rich'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
