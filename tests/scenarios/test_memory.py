"""What real runs take: however they end, ring and pulse go once the last record is on disk."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.observer.journals.segments import read_journal
from distwatch.runfolder import RunFolder, make_private
from distwatch.state.frames import HEADER_SIZE
from distwatch.state.model import RunState
from tests.support.leftovers import wait_gone
from tests.support.ranks import JOBS, RUN_ID, Job, empty_job

STEPS = 300
LEAST_RECORDS = 2 * STEPS + 1


@pytest.fixture
def job() -> Iterator[Job]:
    with empty_job() as made:
        yield made


def start(job: Job, run_id: str = RUN_ID, steps: int = STEPS, **variables: str) -> None:
    """Two ranks."""
    for rank in ("0", "1"):
        environ = {"RANK": rank, "WORLD_SIZE": "2", "DISTWATCH_RUN_ID": run_id, **variables}
        command = [sys.executable, str(JOBS / "agent_only.py"), str(steps), run_id]
        job.start(command, environ, f"{run_id}-{rank}.log")


def wait_observed(job: Job) -> None:
    """Until the observer follows both ranks and all that they have written."""

    def followed(state: RunState) -> bool:
        kept = [read_journal(job.folder.journal(stem)) for stem in ranks_of(job)]
        return len(kept) == 2 and all(one and len(one.records) >= LEAST_RECORDS for one in kept)

    for rank in (0, 1):
        job.wait_step(f"gate {RUN_ID}", {rank})
    job.wait_state(followed)


def ranks_of(job: Job) -> list[str]:
    """Stems of the ranks' journals on disk."""
    stems = job.folder.stems(".journal")
    return [stem for stem in stems if not stem.startswith("observer-")]


def assert_whole_on_disk(job: Job) -> None:
    assert len(ranks_of(job)) == 2
    for stem in ranks_of(job):
        contents = read_journal(job.folder.journal(stem))
        assert contents is not None
        sequence = [record.seq for record in contents.records]
        assert sequence == list(range(1, len(sequence) + 1))
        assert len(sequence) >= LEAST_RECORDS
    assert len(job.folder.stems(".pulse")) == 2


def assert_nothing_in_memory(job: Job) -> None:
    assert job.folder.volatile != job.folder.path
    assert not os.path.exists(os.path.dirname(job.folder.volatile))


def test_after_a_normal_end(job: Job) -> None:
    start(job)
    wait_observed(job)
    observer = job.observer_pid()
    for rank in (0, 1):
        job.open_gate(RUN_ID, rank)
    assert job.wait_ended() == [0, 0]
    assert observer is not None
    assert wait_gone(observer, 60)
    assert_nothing_in_memory(job)
    assert_whole_on_disk(job)


def test_after_the_ranks_were_killed(job: Job) -> None:
    start(job)
    wait_observed(job)
    observer = job.observer_pid()
    for rank in (0, 1):
        job.kill(rank)
    job.wait_ended()
    assert observer is not None
    assert wait_gone(observer, 60)
    assert_nothing_in_memory(job)
    assert_whole_on_disk(job)


def test_after_the_observer_was_killed_its_successor_frees_it(job: Job) -> None:
    start(job)
    wait_observed(job)
    first = job.observer_pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def followed_again(state: RunState) -> bool:
        return job.observer_pid() not in (None, first)

    job.wait_state(followed_again)
    second = job.observer_pid()
    assert second is not None
    for rank in (0, 1):
        job.open_gate(RUN_ID, rank)
    assert job.wait_ended() == [0, 0]
    assert wait_gone(second, 60)
    assert_nothing_in_memory(job)
    assert_whole_on_disk(job)


def test_after_everything_was_killed_the_next_run_frees_it(job: Job) -> None:
    start(job, DISTWATCH_OBSERVER="off")
    for rank in (0, 1):
        job.wait_step(f"gate {RUN_ID}", {rank})
    job.kill_everything(observer=True)
    assert len(job.folder.stems(".ring", job.folder.volatile)) == 2
    assert ranks_of(job) == []

    def freed(state: RunState) -> bool:
        return not os.path.exists(job.folder.volatile)

    job.launched.clear()
    start(job, "next", steps=1)
    job.wait_state(freed)
    assert_whole_on_disk(job)
    assert RunFolder(os.path.join(job.root, "next")).stems(".start")


def test_after_all_that_was_observed_was_killed_the_next_run_frees_it(job: Job) -> None:
    start(job)
    wait_observed(job)
    job.kill_everything(observer=True)

    def freed(state: RunState) -> bool:
        return not os.path.exists(job.folder.volatile)

    job.launched.clear()
    start(job, "next", steps=1)
    job.wait_state(freed)
    assert_whole_on_disk(job)


def test_the_size_of_the_ring_is_a_setting(job: Job) -> None:
    start(job, steps=1, DISTWATCH_RING="128KiB", DISTWATCH_OBSERVER="off")
    for rank in (0, 1):
        job.wait_step(f"gate {RUN_ID}", {rank})
    place = job.folder.volatile
    sizes = [os.stat(f"{place}/{stem}.ring").st_size for stem in job.folder.stems(".ring", place)]
    assert sizes == 2 * [HEADER_SIZE + 128 * 1024]


def test_an_observer_removes_runs_that_are_older_than_the_setting_says(job: Job) -> None:
    old = RunFolder(os.path.join(job.root, "old"))
    make_private(old.path)
    record = Path(old.path, "h-1.start")
    record.write_text(
        f"pid=1\nticks=1099511627776\nppid=0\nhost={os.uname().nodename}\nrole=rank\nRANK=0\n"
    )
    two_hours_ago = time.time() - 7200
    os.utime(record, (two_hours_ago, two_hours_ago))

    def removed(state: RunState) -> bool:
        return not os.path.exists(old.path)

    start(job, steps=1, DISTWATCH_KEEP="1h")
    job.wait_state(removed)
    assert os.path.exists(job.folder.path)
