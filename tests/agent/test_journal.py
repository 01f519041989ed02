"""The ring: nothing acknowledged is lost, whatever happens to its writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distwatch.agent.journal import Journal, create_map
from distwatch.state import events as ev
from distwatch.state.frames import HEADER_SIZE, FileHeader, decode_header, scan
from distwatch.state.identity import Identity
from tests.agent.rings import read_events, read_ring

STARTED = ev.ProcessStarted(
    host="h", pid=1, start_ticks=1, ppid=0, role="rank", identity=Identity(global_rank=0)
)


def header(capacity: int) -> FileHeader:
    return FileHeader(
        stream="h-1.1",
        host="h",
        pid=1,
        start_ticks=1,
        boot_id="",
        wall_offset_ns=0,
        salt=77,
        capacity=capacity,
    )


def progress(number: int, label: str = "") -> ev.StepProgressed:
    return ev.StepProgressed(step=1, done=number, label=label)


@pytest.fixture
def shm(tmp_path: Path) -> str:
    folder = f"/dev/shm/distwatch-test-{os.getpid()}"
    os.makedirs(folder, exist_ok=True)
    yield folder
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)


def test_records_come_back_in_order(shm: str) -> None:
    journal = Journal(f"{shm}/a.ring", header(64 * 1024))
    for number in range(100):
        journal.append(progress(number))
    head, records = read_ring(journal.path)
    assert head.stream == "h-1.1"
    assert [record.seq for record in records] == list(range(1, 101))
    assert read_events(journal.path) == [progress(number) for number in range(100)]
    assert os.stat(journal.path).st_mode & 0o777 == 0o600


def test_wrapping_begins_with_a_snapshot_and_keeps_the_newest(shm: str) -> None:
    journal = Journal(f"{shm}/b.ring", header(16 * 1024))
    journal.append(STARTED)
    for number in range(1000):
        journal.append(progress(number, "x" * 40))
    events = read_events(journal.path)
    assert events[-1] == progress(999, "x" * 40)
    snapshots = [event for event in events if isinstance(event, ev.Snapshot)]
    assert [[event for _, event in snapshot.kept] for snapshot in snapshots] == [[STARTED]]
    seqs = [record.seq for record in read_ring(journal.path)[1]]
    assert seqs == list(range(seqs[0], seqs[-1] + 1)), "the ring's newest records have a hole"


def test_too_large_an_event_is_counted_not_written(shm: str) -> None:
    journal = Journal(f"{shm}/c.ring", header(16 * 1024))
    journal.append(progress(1, "x" * 100_000))
    journal.append(progress(2))
    assert journal.dropped == 1
    assert read_events(journal.path) == [progress(2)]


def test_a_signal_inside_an_append_is_parked_and_written_after_it(shm: str) -> None:
    journal = Journal(f"{shm}/d.ring", header(16 * 1024))
    inside = journal._write

    def interrupted(time_ns: int, payload: bytes) -> None:
        journal._write = inside  # type: ignore[method-assign]
        journal.append(progress(2))
        inside(time_ns, payload)

    journal._write = interrupted  # type: ignore[method-assign]
    journal.append(progress(1))
    assert read_events(journal.path) == [progress(1), progress(2)]
    assert journal.dropped == 0


def test_threads_lose_nothing(shm: str) -> None:
    journal = Journal(f"{shm}/e.ring", header(1024 * 1024))
    together = threading.Barrier(4)

    def write(first: int) -> None:
        together.wait()
        for number in range(first, first + 500):
            journal.append(progress(number))

    threads = [threading.Thread(target=write, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.drain()
    written = {
        event.done for event in read_events(journal.path) if isinstance(event, ev.StepProgressed)
    }
    assert len(written) + journal.dropped == 2000
    assert [r.seq for r in read_ring(journal.path)[1]] == list(range(1, len(written) + 1))


_WRITER = """
import sys
from distwatch.agent.journal import Journal
from distwatch.state.frames import FileHeader
from distwatch.state.events import StepProgressed
h = FileHeader(stream="w", host="h", pid=1, start_ticks=1, boot_id="", wall_offset_ns=0, salt=5, capacity=1<<20)
j = Journal(sys.argv[1], h)
n = 0
while True:
    n += 1
    j.append(StepProgressed(step=1, done=n))
    if n % 10 == 0 and n <= 20000:
        sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("acknowledged", [10, 500, 4000])
def test_sigkill_loses_nothing_acknowledged(shm: str, acknowledged: int) -> None:
    path = f"{shm}/kill-{acknowledged}.ring"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    said = 0
    try:
        while said < acknowledged:
            said = int(writer.stdout.readline())
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        said = max([said, *(int(line) for line in writer.stdout.read().split("\n")[:-1] if line)])
        writer.stdout.close()
    content = Path(path).read_bytes()
    head = decode_header(content)
    assert head is not None
    newest = max(record.seq for _, record in scan(content, head.salt))
    assert newest >= said


def test_a_full_tmpfs_is_a_clean_error_and_leaves_nothing(shm: str) -> None:
    with pytest.raises(OSError, match=r"(?i)space|large|memory"):
        create_map(f"{shm}/big.ring", 1 << 50)
    assert not os.path.exists(f"{shm}/big.ring")


def test_an_existing_file_is_never_taken_over(shm: str) -> None:
    Path(f"{shm}/f.ring").write_bytes(b"someone's")
    with pytest.raises(FileExistsError):
        create_map(f"{shm}/f.ring", HEADER_SIZE)
    assert Path(f"{shm}/f.ring").read_bytes() == b"someone's"
