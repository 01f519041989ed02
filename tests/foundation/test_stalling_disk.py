"""The disk that stops answering: what does not stall is right, what stalls is the real thing."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from tests.probes.others import as_nobody
from tests.support.stalling_disk import stalling_disk, stalling_disk_missing
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    stalling_disk_missing() is not None, reason=str(stalling_disk_missing())
)

PAGE = mmap.PAGESIZE
CONTENT = os.urandom(50 * PAGE + 17)
STALLS_AT = 20 * PAGE
READ = "f = open(path, 'rb', buffering=0); f.seek(offset); f.read(1)"
MAP = "f = open(path, 'rb'); mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)[offset]"
DIRECT = """
f = os.open(path, os.O_RDONLY | os.O_DIRECT)
os.lseek(f, offset, 0)
os.readv(f, [mmap.mmap(-1, mmap.PAGESIZE)])
"""
WAITS_IN = [
    pytest.param(READ, "D", "folio_wait_bit", id="read"),
    pytest.param(MAP, "D", "folio_wait_bit", id="page fault"),
    pytest.param(DIRECT, "S", "request_wait_answer", id="direct"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards" / "inner").mkdir(parents=True)
    for name in ("healthy", "stalls", "inner/deep"):
        (tmp_path / "shards" / name).write_bytes(CONTENT)
    (tmp_path / "shards" / "link").symlink_to("healthy")
    return tmp_path / "shards"


@contextlib.contextmanager
def reader(path: Path, offset: int, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads one byte (or page) at `offset`."""
    source = f"import mmap, os\npath, offset = {str(path)!r}, {offset}\n{code}"
    process = subprocess.Popen([sys.executable, "-IS", "-c", source], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def seen(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """The kernel's task state of a process, and the function that it waits in."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0], Path(f"/proc/{process.pid}/wchan").read_text()


def waits_in(process: subprocess.Popen[bytes], letter: str, function: str) -> None:
    def does() -> bool:
        assert process.poll() is None, "the reader has ended"
        now, place = seen(process)
        return now == letter and place.startswith(function)

    wait_until(does)


def test_what_does_not_stall_is_right(folder: Path) -> None:
    with stalling_disk(folder, {"stalls": STALLS_AT}) as disk:
        assert sorted(os.listdir(disk.path)) == ["healthy", "inner", "link", "stalls"]
        for name in ("healthy", "inner/deep", "link"):
            assert (disk.path / name).read_bytes() == CONTENT
            assert (disk.path / name).stat().st_size == len(CONTENT)
        with (
            open(disk.path / "healthy", "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            assert mapped[:] == CONTENT
        assert not (disk.path / "nothing").exists()
        with pytest.raises(OSError, match="Read-only file system"):
            (disk.path / "new").write_bytes(b"")


def test_bytes_before_the_stall_are_right(folder: Path) -> None:
    with stalling_disk(folder, {"stalls": STALLS_AT}) as disk:
        with (
            open(disk.path / "stalls", "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            assert mapped[:STALLS_AT] == CONTENT[:STALLS_AT]
        with pytest.raises(AssertionError, match="no read of stalls stalled"):
            disk.wait_stalled("stalls", 0)


def test_many_entries_are_all_listed(tmp_path: Path) -> None:
    names = sorted(f"model-{place:05}-of-00300.safetensors" for place in range(300))
    for name in names:
        (tmp_path / name).touch()
    with stalling_disk(tmp_path, {}) as disk:
        assert sorted(os.listdir(disk.path)) == names


def test_safetensors_opens_what_is_healthy(tmp_path: Path) -> None:
    tensor = torch.arange(10_000, dtype=torch.float32)
    save_file({"weight": tensor}, tmp_path / "model.safetensors")
    with (
        stalling_disk(tmp_path, {}) as disk,
        safetensors.safe_open(str(disk.path / "model.safetensors"), "pt") as opened,
    ):
        assert torch.equal(opened.get_tensor("weight"), tensor)


@pytest.mark.parametrize(("code", "letter", "function"), WAITS_IN)
@pytest.mark.parametrize("offset", [0, STALLS_AT])
def test_a_stalled_reader_waits_until_the_disk_goes(
    folder: Path, code: str, letter: str, function: str, offset: int
) -> None:
    with contextlib.ExitStack() as reading:
        with stalling_disk(folder, {"stalls": offset}) as disk:
            process = reading.enter_context(reader(disk.path / "stalls", offset, code))
            disk.wait_stalled("stalls")
            waits_in(process, letter, function)
            assert (disk.path / "healthy").read_bytes() == CONTENT, "it holds up only its readers"
        assert process.wait(60) == (-signal.SIGBUS if code is MAP else 1)
    assert not disk.path.exists()
    assert str(disk.path) not in Path("/proc/mounts").read_text()


@pytest.mark.parametrize(("code", "letter", "function"), WAITS_IN)
def test_a_stalled_reader_can_be_killed(
    folder: Path, code: str, letter: str, function: str
) -> None:
    with (
        stalling_disk(folder, {"stalls": 0}) as disk,
        reader(disk.path / "stalls", 0, code) as process,
    ):
        disk.wait_stalled("stalls")
        waits_in(process, letter, function)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL


def test_a_disk_whose_process_was_killed_is_cleared_away(folder: Path) -> None:
    with stalling_disk(folder, {"stalls": 0}) as disk, reader(disk.path / "stalls", 0, READ) as one:
        disk.wait_stalled("stalls")
        disk.server.kill()
        assert one.wait(60) == 1
        with pytest.raises(AssertionError, match="has ended"):
            disk.wait_stalled("healthy")
    assert not disk.path.exists()


def test_the_end_of_a_failed_test_clears_it_away(folder: Path) -> None:
    disks = []

    def fail() -> None:
        with stalling_disk(folder, {"stalls": 0}) as disk:
            disks.append(disk)
            with reader(disk.path / "stalls", 0, MAP):
                disk.wait_stalled("stalls")
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not disks[0].path.exists()
    assert disks[0].server.poll() == 0


def test_whoever_may_not_mount_is_told_why() -> None:
    said = as_nobody(lambda: str(stalling_disk_missing.__wrapped__()))
    assert said.startswith("FUSE cannot be mounted here")
