"""The job's own logs: the last line of who lives, and the end of who has no process any more."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.log_looks import LogLooks
from distwatch.probes.discovery import sight
from distwatch.probes.output_files import TAIL, OutputFile, output_files, read_tail
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce
from tests.observer.rank_process import NOBODYS_PORT

ERROR = """Traceback (most recent call last):
  File "/job/train.py", line 7, in <module>
    load()
FileNotFoundError: shard 7
"""


@contextlib.contextmanager
def rank_0(log: Path, world: int) -> Iterator[int]:
    """A process that claims to be rank 0 and writes to that file."""
    env = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": NOBODYS_PORT,
    }  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, its = os.pipe()
    with log.open("ab") as file, os.fdopen(ours, "rb") as ready:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os; os.write({its}, b'.'); os.read(0, 1)"],
            env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=file, stderr=file,
            pass_fds=[its],
        )  # fmt: skip
        os.close(its)
        assert ready.read(1) == b"."  # right after its start, /proc has no environment of it
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


async def look(folder: RunFolder, pid: int) -> RunState:
    state = RunState()
    recording = Recording(
        folder, lambda header, seq, at, event: reduce(state, header, seq, at, event)
    )
    sighted = sight(pid)
    assert sighted is not None
    recording.record(sighted)
    looks = LogLooks(recording)
    looks.consider(state)
    assert looks._reading is not None
    await looks._reading
    recording.record(ev.Ticked(host=sighted.host))
    recording.close()
    return state


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        ("rank0.log", "rank1.log"),
        ("out-00-of-02.txt", "out-01-of-02.txt"),
        ("job/attempt_0/0/stderr.log", "job/attempt_0/1/stderr.log"),
    ],
)
async def test_a_rank_that_is_gone_is_told_by_its_log(
    folder: RunFolder, tmp_path: Path, mine: str, others: str
) -> None:
    log = tmp_path / others
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"loading\n{ERROR}")
    (tmp_path / "rank7.log").write_text(ERROR)  # no rank of this world
    with rank_0(tmp_path / mine, 2) as pid:
        (tmp_path / mine).write_text("epoch 3\n")
        state = await look(folder, pid)
    ranks = {process.global_rank: process for process in state.processes.values()}
    assert sorted(ranks) == [0, 1]
    assert ranks[0].outside.last_output == "epoch 3"
    assert ranks[1].exception is not None
    assert ranks[1].exception.message == "shard 7"
    assert [f.culprit_ranks for f in diagnose(state) if f.blocks] == [(1,)]


async def test_a_rank_that_is_gone_without_an_error_may_have_ended_well(
    folder: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "rank1.log").write_text("epoch 9\ndone\n")
    with rank_0(tmp_path / "rank0.log", 2) as pid:
        state = await look(folder, pid)
    assert any(process.global_rank == 1 for process in state.processes.values())
    assert [f for f in diagnose(state) if f.blocks] == []


async def test_one_log_of_all_ranks_names_them_by_torchs_prefix(
    folder: RunFolder, tmp_path: Path
) -> None:
    lines = "".join(f"[rank1]: {line}\n" for line in ERROR.splitlines())
    with rank_0(tmp_path / "train.log", 2) as pid:
        (tmp_path / "train.log").write_text(lines)
        state = await look(folder, pid)
    told = {process.global_rank: process.exception for process in state.processes.values()}
    assert told[0] is None
    assert told[1] is not None


def test_files_of_another_launch_and_what_is_no_file_do_not_count(tmp_path: Path) -> None:
    old = tmp_path / "rank1.log"
    old.write_text(ERROR)
    os.utime(old, (1, 1))
    os.mkfifo(tmp_path / "rank2.log")
    with rank_0(tmp_path / "rank0.log", 4) as pid:
        found = output_files({0: pid}, 3)
        assert OutputFile(path=str(tmp_path / "rank0.log"), rank=0) in found
        assert str(old) not in {file.path for file in found}
    with pytest.raises(OSError, match="not a regular file"):
        read_tail(str(tmp_path / "rank2.log"))


def test_the_end_of_a_long_log_begins_with_a_line(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_bytes(b"first\n" + b"x" * 99 + b"\n" + b"line\n" * (TAIL // 5))
    content = read_tail(str(log))
    assert len(content) <= TAIL
    assert content.startswith(b"line\n")
