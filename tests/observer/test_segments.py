"""Segments on disk: nothing lost, nothing twice, whatever happens to the file or the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from distwatch.observer.journals.segments import Segment, read_journal
from distwatch.state.frames import HEADER_SIZE, FileHeader, Record

HEADER = FileHeader(
    stream="h-7.99",
    host="h",
    pid=7,
    start_ticks=99,
    boot_id="b",
    wall_offset_ns=0,
    salt=12345,
    capacity=1 << 20,
)


def records(first: int, last: int, size: int = 40) -> list[Record]:
    return [
        Record(seq=seq, time_ns=seq, payload=seq.to_bytes(4, "big") * (size // 4))
        for seq in range(first, last + 1)
    ]


def numbers(path: Path | str) -> list[int]:
    contents = read_journal(str(path))
    assert contents is not None
    return [record.seq for record in contents.records]


def test_a_new_observer_goes_on_after_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    first = Segment(str(path), HEADER)
    first.append(records(1, 5))
    first.close()
    second = Segment(str(path), HEADER)
    assert second.last_seq == 5
    second.append(records(3, 8))
    second.close()
    contents = read_journal(str(path))
    assert contents is not None
    assert contents.records == records(1, 8)
    assert contents.header.capacity == 0
    assert contents.damaged == 0


@pytest.mark.parametrize("cut", [1, 17, 33, 70])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.journal"
    first = Segment(str(path), HEADER)
    first.append(records(1, 5))
    first.close()
    os.truncate(path, path.stat().st_size - cut)
    whole = numbers(path)
    assert whole in ([1, 2, 3, 4], [1, 2, 3])
    second = Segment(str(path), HEADER)
    assert second.last_seq == whole[-1]
    second.append(records(1, 6))
    second.close()
    contents = read_journal(str(path))
    assert contents is not None
    assert contents.records == records(1, 6)
    assert contents.damaged == 0


def test_damage_in_the_middle_costs_only_what_it_hit(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    segment = Segment(str(path), HEADER)
    segment.append(records(1, 5))
    segment.close()
    with path.open("r+b") as file:
        file.seek(HEADER_SIZE + 72 * 2 + 40)
        file.write(b"\xff" * 8)
    assert numbers(path) == [1, 2, 4, 5]
    contents = read_journal(str(path))
    assert contents is not None
    assert contents.damaged == 72


def test_a_file_of_another_stream_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    earlier = Segment(str(path), msgspec.structs.replace(HEADER, stream="h-7.11", salt=1))
    earlier.append(records(1, 3))
    earlier.close()
    segment = Segment(str(path), HEADER)
    segment.append(records(1, 2))
    segment.close()
    assert numbers(path) == [1, 2, 3]
    assert numbers(tmp_path / "a-99.journal") == [1, 2]


def test_a_full_segment_is_rotated_and_still_resumed(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    segment = Segment(str(path), HEADER, limit=HEADER_SIZE + 300)
    segment.append(records(1, 5))
    segment.append(records(6, 6))
    segment.close()
    assert numbers(tmp_path / "a.old.journal") == [1, 2, 3, 4, 5]
    assert numbers(path) == [6]
    path.unlink()
    assert Segment(str(path), HEADER).last_seq == 5


FULL_DISK = """
import os, sys
from distwatch.observer.journals.segments import Segment, read_journal
from tests.observer.test_segments import HEADER, records
path = sys.argv[1] + "/a.journal"
segment = Segment(path, HEADER)
segment.append(records(1, 10))
filler = os.open(sys.argv[1] + "/filler", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    os.close(filler)
try:
    segment.append(records(11, 400))
except OSError as error:
    print("refused", error.errno, segment.last_seq)
print([r.seq for r in read_journal(path).records] == list(range(1, 11)))
try:
    Segment(sys.argv[1] + "/b.journal", HEADER)
except OSError as error:
    print("refused", error.errno, os.path.exists(sys.argv[1] + "/b.journal"))
os.unlink(sys.argv[1] + "/filler")
segment.append(records(11, 400))
contents = read_journal(path)
print(contents.records == records(1, 400), contents.damaged)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_costs_nothing_once_there_is_room_again(tmp_path: Path) -> None:
    command = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(tmp_path), sys.executable, FULL_DISK],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        timeout=60,
        check=False,
    )
    if "unshare" in ran.stderr:
        pytest.skip(f"no mount namespace here: {ran.stderr.strip()}")
    no_space = errno.ENOSPC
    assert ran.stdout.splitlines() == [
        f"refused {no_space} 10",
        "True",
        f"refused {no_space} False",
        "True 0",
    ], ran.stderr
