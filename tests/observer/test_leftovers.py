"""What the dead left in memory goes to disk and then out of memory; what lives keeps all it has."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.agent.journal import Journal
from distwatch.agent.pulse import PulsePage
from distwatch.observer.journals.journal_intake import remove_if_empty
from distwatch.observer.journals.leftovers import LOST_AFTER_S, QUIET_S, sweep
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.journals.segments import read_journal
from distwatch.observer.lock import free_lock, take_lock
from distwatch.runfolder import (
    RunFolder,
    boot_id,
    make_private,
    memory_place,
    name_in_memory,
    root_in_memory,
    start_ticks,
)
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]
HERE = os.uname().nodename


def root_of(folder: RunFolder) -> str:
    return os.path.dirname(folder.path)


def sequence_on_disk(folder: RunFolder, stem: str) -> list[int]:
    contents = read_journal(folder.journal(stem))
    assert contents is not None
    return [record.seq for record in contents.records]


def dead_rank(folder: RunFolder, start_rank: Start, steps: int = 20) -> RankProcess:
    rank = start_rank()
    rank.do(f"steps {steps}")
    rank.do("beat 7 6")
    rank.kill()
    rank.close()
    return rank


def ring_of(
    folder: RunFolder, *, host: str = HERE, pid: int = 1 << 22, ticks: int = 5, boot: str = "b"
) -> tuple[str, Journal]:
    """A ring that this process writes, in the name of another."""
    folder.create()
    header = FileHeader(
        stream=process_key(host, pid, ticks), host=host, pid=pid, start_ticks=ticks,
        boot_id=boot, wall_offset_ns=0, salt=1, capacity=64 * 1024,
    )  # fmt: skip
    path = f"{folder.volatile}/{host}-{pid}.ring"
    journal = Journal(path, header)
    journal.append(ev.StepStarted(step=1, name="step"))
    return path, journal


def age(seconds: float, *places: str) -> None:
    then = time.time() - seconds
    for place in places:
        for path in (*Path(place).iterdir(), Path(place)):
            os.utime(path, (then, then))


def test_the_last_records_are_on_disk_before_the_memory_is_free(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = dead_rank(folder, start_rank)
    sweep(root_of(folder))
    assert sequence_on_disk(folder, rank.stem) == list(range(1, 42))
    pulse = load_state(folder).processes[rank.key].outside.pulse
    assert pulse is not None
    assert pulse.groups[0].enqueued == 7
    assert not os.path.exists(folder.volatile)


def test_what_the_disk_refuses_stays_in_memory(folder: RunFolder, start_rank: Start) -> None:
    rank = dead_rank(folder, start_rank)
    os.mkdir(folder.journal(rank.stem))
    sweep(root_of(folder))
    assert folder.stems(".ring", folder.volatile) == [rank.stem]
    assert folder.stems(".pulse", folder.volatile) == [rank.stem]
    os.rmdir(folder.journal(rank.stem))
    sweep(root_of(folder))
    assert len(sequence_on_disk(folder, rank.stem)) == 41
    assert not os.path.exists(folder.volatile)


def test_a_run_with_a_living_rank_is_left_alone(folder: RunFolder, start_rank: Start) -> None:
    living, dead = start_rank(0, 2), start_rank(1, 2)
    dead.kill()
    dead.close()
    sweep(root_of(folder))
    assert set(folder.stems(".ring", folder.volatile)) == {living.stem, dead.stem}
    living.do("steps 1")


def test_a_run_that_is_observed_is_left_to_its_observer(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = dead_rank(folder, start_rank)
    lock = take_lock(folder)
    assert lock is not None
    sweep(root_of(folder))
    assert folder.stems(".ring", folder.volatile) == [rank.stem]
    free_lock(lock)
    sweep(root_of(folder))
    assert not os.path.exists(folder.volatile)


def test_the_pid_of_another_boot_says_nothing(folder: RunFolder) -> None:
    me = {"pid": os.getpid(), "ticks": start_ticks(os.getpid())}
    path, journal = ring_of(folder, **me, boot=boot_id())
    del journal
    gc.collect()
    sweep(root_of(folder))
    assert os.path.exists(path), "its process lives"
    os.unlink(path)
    path, journal = ring_of(folder, **me, boot="the boot before")
    del journal
    gc.collect()
    sweep(root_of(folder))
    assert not os.path.exists(path)


@pytest.mark.parametrize("host", [HERE, "a-container"])
def test_a_writer_that_the_process_table_does_not_show_keeps_its_ring(
    folder: RunFolder, host: str
) -> None:
    path, journal = ring_of(folder, host=host)
    sweep(root_of(folder))
    assert os.path.exists(path)
    journal.append(ev.StepEnded(step=1))
    del journal
    gc.collect()
    sweep(root_of(folder))
    assert not os.path.exists(path)
    assert sequence_on_disk(folder, f"{host}-{1 << 22}") == [1, 2]


def test_a_run_of_another_root_is_swept_once_it_is_quiet(
    folder: RunFolder, start_rank: Start, tmp_path: Path
) -> None:
    rank = dead_rank(folder, start_rank)
    sweep(str(tmp_path))
    assert folder.stems(".ring", folder.volatile) == [rank.stem]
    age(QUIET_S + 60, folder.path, folder.volatile)
    sweep(str(tmp_path))
    assert not os.path.exists(folder.volatile)
    assert len(sequence_on_disk(folder, rank.stem)) == 41


def test_rings_of_a_run_that_was_removed_go(folder: RunFolder, tmp_path: Path) -> None:
    removed = RunFolder(f"{root_of(folder)}/removed")
    path, journal = ring_of(removed)
    PulsePage(path.replace(".ring", ".pulse"))
    os.rmdir(removed.path)
    sweep(str(tmp_path))
    assert os.path.exists(path)
    del journal
    gc.collect()
    sweep(str(tmp_path))
    assert not os.path.exists(removed.volatile)


def test_a_root_that_is_not_there_may_be_another_containers(tmp_path: Path) -> None:
    place = f"{memory_place()}/{name_in_memory(str(tmp_path / 'elsewhere'))}/run"
    for path in (memory_place(), os.path.dirname(place), place):
        make_private(path)
    pulse = Path(place, "x-1.pulse")
    pulse.touch()
    sweep(str(tmp_path))
    assert pulse.exists()
    age(LOST_AFTER_S + 60, place)
    sweep(str(tmp_path))
    assert not os.path.exists(place)
    remove_if_empty(os.path.dirname(place))


def test_a_root_has_one_name_in_memory_and_a_name_one_root() -> None:
    roots = ["/tmp/distwatch-0", "/tmp/distwatch/0", "/a:b/c", "/a/b/c", "/a%3Ab/c", "/%2F:/x-y"]
    names = {name_in_memory(root) for root in roots}
    assert len(names) == len(roots)
    assert not any("/" in name for name in names)
    assert [root_in_memory(name_in_memory(root)) for root in roots] == roots
