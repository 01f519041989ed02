"""Dumps that ranks leave in files: which are taken in, and who is asked for one."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest

from distwatch.foreign_files import write_to_pipe
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks import recorder_looks
from distwatch.observer.looks.recorder_looks import WHAT, RecorderLooks
from distwatch.observer.looks.tracking import Tracked
from distwatch.observer.targets.runs import load_state
from distwatch.probes.output_files import OutputFile
from distwatch.probes.recorder_files import RecorderFiles, ask_for_dump, newest_dump
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from tests.diagnosis.test_recorder_files import watchdog_says
from tests.dumps.test_import import entry, nccl_dump

KEY = "here-5.1"


class Watch:
    """Looks at the files of one rank, which is this process."""

    def __init__(self, folder: RunFolder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = place / "trace_0"
        self.pipe = place / "ask_0.pipe"
        files = RecorderFiles(
            pid=os.getpid(), global_rank=0, paths=(str(self.file),), pipe=str(self.pipe),
            started_wall_ns=time.time_ns() - 60 * 10**9,
        )  # fmt: skip
        monkeypatch.setattr(recorder_looks, "recorder_files_of", lambda *_: files)
        self.log = place / "rank0.log"
        output = OutputFile(path=str(self.log), rank=0)
        monkeypatch.setattr(recorder_looks, "output_files", lambda *_: [output])
        self.files = files
        self.folder = folder
        self.events: list[ev.Event] = []
        self.recording = Recording(folder, lambda _h, _s, _t, event: self.events.append(event))
        self.looks = RecorderLooks(self.recording)

    def leave(self, content: bytes, age_s: float = 0.0) -> None:
        self.file.write_bytes(content)
        when = time.time_ns() - int(age_s * 1e9)
        os.utime(self.file, ns=(when, when))

    async def look(self, why: str = "", agents: tuple[str, ...] = ()) -> None:
        tracked = Tracked(key=KEY, pid=os.getpid(), ticks=1, role="rank")
        self.looks.consider([tracked], why, agents=agents)
        if self.looks._scanning is not None:
            await self.looks._scanning

    @property
    def read(self) -> list[ev.RecorderFileRead]:
        return [event for event in self.events if isinstance(event, ev.RecorderFileRead)]


@pytest.fixture
def watch(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(folder, tmp_path, monkeypatch)


def dump_of(*seqs: int) -> bytes:
    """The last of these calls is open."""
    last = max(seqs)
    calls = [entry(n) if n < last else entry(n, state="scheduled", retired=False) for n in seqs]
    return pickle.dumps(nccl_dump(calls))


async def test_a_dump_that_is_left_is_read_once_and_again_when_it_is_newer(watch: Watch) -> None:
    await watch.look()
    assert watch.read == []
    watch.leave(dump_of(1, 2), age_s=5)
    await watch.looks.scan()
    await watch.looks.scan()
    watch.leave(dump_of(1, 2, 3))
    await watch.looks.scan()
    assert [len(read.dumped.entries) for read in watch.read] == [2, 3]
    assert {read.process for read in watch.read} == {KEY}


async def test_what_another_job_left_before_is_not_read(watch: Watch) -> None:
    watch.leave(dump_of(1, 2), age_s=3600)
    await watch.look()
    assert watch.read == []


async def test_a_damaged_file_is_told_once(watch: Watch) -> None:
    watch.leave(b"\x80\x04 no dump")
    await watch.look()
    assert not any(isinstance(event, ev.NotObserved) for event in watch.events), "it may grow"
    await watch.looks.scan()
    await watch.looks.scan()
    told = [event for event in watch.events if isinstance(event, ev.NotObserved)]
    assert [(event.what, event.process) for event in told] == [(WHAT, KEY)]


async def test_what_was_read_is_the_same_from_disk(watch: Watch) -> None:
    watch.leave(dump_of(1, 2, 3))
    await watch.look()
    watch.recording.close()
    process = load_state(watch.folder).processes[KEY]
    assert process.outside.recorder_file == watch.read[0]


def open_pipe(watch: Watch) -> int:
    os.mkfifo(watch.pipe)
    return os.open(watch.pipe, os.O_RDONLY | os.O_NONBLOCK)


async def test_a_watchdog_is_asked_on_suspicion_alone(watch: Watch) -> None:
    reader = open_pipe(watch)
    await watch.look()
    assert os.read(reader, 8) == b""
    os.close(reader)


async def test_it_is_asked_where_no_agent_can_be(watch: Watch) -> None:
    reader = open_pipe(watch)
    await watch.look("a rank waits", agents=(KEY,))
    assert os.read(reader, 8) == b""
    watch.looks._ask_at = 0.0
    await watch.look("a rank waits")
    assert os.read(reader, 8) == b"1\n"
    await watch.look("a rank waits")
    assert os.read(reader, 8) == b""  # not again so soon
    os.close(reader)


def test_a_pipe_that_the_rank_has_not_open_is_left_alone(watch: Watch, tmp_path: Path) -> None:
    os.mkfifo(watch.pipe)
    assert not ask_for_dump(watch.files)
    (tmp_path / "link.pipe").symlink_to(watch.pipe)
    reader = os.open(watch.pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (tmp_path / "link.pipe", watch.folder.path, tmp_path / "absent.pipe"):
        with pytest.raises(OSError, match=r"\w"):
            write_to_pipe(str(path), b"1\n")
    regular = tmp_path / "file.pipe"
    regular.write_bytes(b"")
    with pytest.raises(OSError, match="is not a named pipe"):
        write_to_pipe(str(regular), b"1\n")
    assert regular.read_bytes() == b""
    os.close(reader)


def test_a_link_is_no_dump(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(dump_of(1))
    watch.file.symlink_to(tmp_path / "other")
    assert newest_dump(watch.files, 0) is None


async def test_lines_of_the_watchdog_are_read_when_a_process_has_ended(watch: Watch) -> None:
    watch.log.write_text("step 1\n" + watchdog_says(0))
    await watch.look()
    assert watch.read == []
    watch.looks.scan_soon()
    await watch.look()
    await watch.looks.scan()
    (read,) = watch.read
    assert read.path == str(watch.log)
    assert [entry.seq for entry in read.dumped.entries] == [55]


async def test_of_a_rank_with_a_dump_no_lines_are_read(watch: Watch) -> None:
    watch.log.write_text(watchdog_says(0))
    watch.leave(dump_of(1, 2))
    watch.looks.scan_soon()
    await watch.look()
    assert [read.path for read in watch.read] == [str(watch.file)]


async def test_of_a_rank_with_an_agent_no_lines_are_read(watch: Watch) -> None:
    watch.log.write_text(watchdog_says(0))
    watch.looks.scan_soon()
    await watch.look(agents=(KEY,))
    assert watch.read == []


async def test_the_last_words_of_an_aborted_process_are_read_once(watch: Watch) -> None:
    await watch.look()
    watch.log.write_text(
        "step 1\nterminate called after throwing an instance of 'gloo::EnforceNotMet'\n"
        "  what():  op.preamble.length <= op.nbytes. 8 vs 4\n"
    )
    for _ in range(2):
        watch.looks.read_aborts([KEY, "unknown"])
        await watch.look()
    told = [event for event in watch.events if isinstance(event, ev.ErrorFileRead)]
    assert [(one.process, one.type_name) for one in told] == [(KEY, "gloo::EnforceNotMet")]
    assert not watch.looks.reads_abort


async def test_a_verdict_waits_for_last_words_only_so_long(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch.look()
    watch.looks.read_aborts([KEY])
    assert watch.looks.reads_abort
    now = time.monotonic()
    monkeypatch.setattr(recorder_looks.time, "monotonic", lambda: now + 60.0)
    assert not watch.looks.reads_abort
