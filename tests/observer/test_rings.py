"""Rings are read without a gap while they wrap, and with a counted one where they were lapped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.foreign_files import FileRefused
from distwatch.observer.journals.rings import Ring
from distwatch.runfolder import RunFolder
from distwatch.state.frames import HEADER_SIZE, Record
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


def ring_of(folder: RunFolder, rank: RankProcess, last_seq: int = 0) -> Ring:
    return Ring(f"{folder.volatile}/{rank.stem}.ring", last_seq)


def numbers(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


def test_each_record_is_read_once(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    ring = ring_of(folder, rank)
    assert numbers(ring.read()) == [1]
    rank.do("steps 3")
    assert numbers(ring.read()) == [2, 3, 4, 5, 6, 7]
    assert ring.read() == []
    ring.close()


def test_nothing_is_lost_while_the_ring_wraps(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank(capacity=8192)
    ring = ring_of(folder, rank)
    seen = numbers(ring.read())
    for _ in range(40):
        rank.do("steps 10")
        seen += numbers(ring.read())
    assert seen == list(range(1, seen[-1] + 1))
    assert seen[-1] > 800, "40 rounds wrap this ring several times, each with a snapshot"
    assert ring.lost == 0
    ring.close()


def test_a_lapped_reader_counts_what_it_missed_and_goes_on(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank(capacity=8192)
    ring = ring_of(folder, rank)
    assert numbers(ring.read()) == [1]
    rank.do("steps 1000")
    late = numbers(ring.read())
    assert late == sorted(set(late))
    assert late[-1] - 1 == len(late) + ring.lost
    assert ring.lost > 1000
    rank.do("steps 1")
    more = numbers(ring.read())
    assert len(more) >= 2
    assert more == list(range(late[-1] + 1, late[-1] + 1 + len(more)))
    ring.close()


def test_reading_goes_on_after_a_number(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 5")
    ring = ring_of(folder, rank, last_seq=4)
    assert numbers(ring.read()) == [5, 6, 7, 8, 9, 10, 11]
    assert ring.lost == 0
    assert numbers(ring.since(9)) == [10, 11]
    ring.close()


def test_sigkill_loses_nothing_that_was_written(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    ring = ring_of(folder, rank)
    rank.do("steps 100")
    rank.kill()
    assert numbers(ring.read(last_time=True)) == list(range(1, 202))
    ring.close()


def test_a_damaged_first_frame_does_not_hide_the_rest(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 5")
    rank.kill()
    path = Path(folder.volatile, f"{rank.stem}.ring")
    with path.open("r+b") as file:
        file.seek(HEADER_SIZE)
        file.write(b"\0\0\0\0")
    ring = ring_of(folder, rank)
    assert numbers(ring.read(last_time=True)) == list(range(2, 12))
    assert ring.lost == 1
    ring.close()


def test_a_truncated_ring_is_no_trouble(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    ring = ring_of(folder, rank)
    assert numbers(ring.read()) == [1]
    rank.kill()
    os.truncate(f"{folder.volatile}/{rank.stem}.ring", HEADER_SIZE + 10)
    assert ring.read() == []
    assert ring.read(last_time=True) == []
    ring.close()


def test_what_is_no_ring_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.ring"
    path.write_bytes(os.urandom(9000))
    with pytest.raises(ValueError, match="no journal header"):
        Ring(str(path))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.ring"
    link.symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic links"):
        Ring(str(link))
    os.mkfifo(tmp_path / "pipe.ring")
    with pytest.raises(FileRefused, match="not a regular file"):
        Ring(str(tmp_path / "pipe.ring"))
