"""Whatever is cut off in between, the root ends with the leaf's journals, record for record."""

from __future__ import annotations

import itertools
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distwatch.observer.journals.reading import Entry
from distwatch.observer.journals.segments import Segment, read_journal
from distwatch.observer.link import backlog as module
from distwatch.observer.link import messages as say
from distwatch.observer.link import mirror
from distwatch.observer.link.backlog import Backlog
from distwatch.observer.link.digest import Digest
from distwatch.observer.link.mirror import Mirror, objection_to
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader, Record, process_key

HOST = "b"


def header(pid: int, *, observer: bool = False, host: str = HOST) -> FileHeader:
    key = process_key(host, pid, 7)
    return FileHeader(
        stream=f"observer:{key}#{pid:08x}" if observer else key,
        host=host, pid=pid, start_ticks=7, boot_id="x", wall_offset_ns=1, salt=pid,
    )  # fmt: skip


STREAMS = (header(11), header(12), header(13, observer=True))


class Home:
    """The leaf's folder, its journals and its backlog; and the root's, behind a wire that breaks."""

    def __init__(self, path: Path) -> None:
        self.leaf, self.root = RunFolder(str(path / "leaf")), RunFolder(str(path / "root"))
        for folder in (self.leaf, self.root):
            Path(folder.path).mkdir()
        self.segments = [
            Segment(self.leaf.journal(f"s{number}"), one) for number, one in enumerate(STREAMS)
        ]
        self.backlog = Backlog(self.leaf, HOST)
        self.mirror = Mirror(self.root)
        self.resumes = 0
        self.on_the_way: list[say.Batch] = []
        self.reconnect()

    def write(self, number: int, count: int, size: int) -> None:
        segment = self.segments[number]
        for _ in range(count):
            seq = segment.last_seq + 1
            record = Record(seq=seq, time_ns=seq, payload=b"%d" % seq + b"." * size)
            segment.append([record])
            self.backlog.add_record(segment.header, record)

    def send(self, most: int = 1 << 30) -> None:
        """Puts what waits onto the wire; it breaks after `most` batches."""
        batches = self._batches()
        self.on_the_way += itertools.islice(batches, most)
        if next(batches, None) is not None:
            self.broken = True

    def _batches(self) -> Iterator[say.Batch]:
        while self.backlog.behind:
            handed = self.backlog.begin_history()
            yield from self.backlog.take_history(self.backlog.read_history(handed))
        yield from self.backlog.take_live_batch()

    def arrive(self, count: int = 1 << 30) -> None:
        for batch in self.on_the_way[:count]:
            assert len(say.encode(batch)) < say.FRAME_LIMIT
            message = say.decode_from_leaf(say.encode(batch))
            assert isinstance(message, say.Batch)
            for frame in message.frames:
                record = Record(seq=frame.seq, time_ns=frame.time_ns, payload=frame.payload)
                if frame.seq:
                    self.mirror.keep(message.headers[frame.stream], [record])
        del self.on_the_way[:count]

    def reconnect(self) -> None:
        """What was on the way is gone."""
        self.on_the_way.clear()
        self.broken = False
        self.resumes += 1
        self.backlog.resume(self.resumes, self.mirror.cursors({HOST}))

    def new_root(self) -> None:
        self.mirror.close()
        self.mirror = Mirror(self.root)
        self.reconnect()

    def journals(self, folder: RunFolder) -> dict[str, list[Record]]:
        found = {}
        for stem in folder.stems(".journal"):
            contents = read_journal(folder.journal(stem))
            assert contents is not None
            assert contents.damaged == 0
            if contents.records:
                found[contents.header.stream] = contents.records
        return found

    def close(self) -> None:
        self.mirror.close()
        for segment in self.segments:
            segment.close()


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 30), st.integers(0, 400)),
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("send")),
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.just("reconnect")),
    st.tuples(st.just("new_root")),
)


@given(st.lists(steps, max_size=25))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_nothing_is_lost_and_nothing_there_twice(
    monkeypatch: pytest.MonkeyPatch, done: list[tuple[object, ...]]
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 4000)
    monkeypatch.setattr(module, "BATCH_SIZE", 1500)
    with tempfile.TemporaryDirectory() as path:
        home = Home(Path(path))
        for name, *arguments in done:
            if home.broken and name == "send":
                home.reconnect()
            getattr(home, str(name))(*arguments)
        if home.broken:
            home.reconnect()
        home.send()
        home.arrive()
        assert home.journals(home.root) == home.journals(home.leaf)
        home.close()


def test_of_a_live_value_the_newest_is_sent_and_none_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.send()
    for beat in (1, 2, 3):
        read = ev.PulseRead(process="b-11.7", pulse=ev.Pulse(beat=beat))
        home.backlog.add_live(Entry(STREAMS[2], 0, beat, read))
    home.backlog.add_live(Entry(STREAMS[2], 5, 9, ev.Ticked(host=HOST)))
    (batch,) = home.backlog.take_live_batch()
    assert [(frame.seq, frame.time_ns) for frame in batch.frames] == [(0, 3)]
    home.on_the_way = [batch]
    home.arrive()
    assert home.journals(home.root) == {}
    home.close()


@pytest.mark.parametrize(
    "one",
    [
        header(11, host="../x"),
        header(11, host="c"),
        FileHeader(
            stream="b-12.7", host="b", pid=11, start_ticks=7, boot_id="", wall_offset_ns=0, salt=1
        ),
        FileHeader(
            stream="b--1.7", host="b", pid=-1, start_ticks=7, boot_id="", wall_offset_ns=0, salt=1
        ),
        FileHeader(
            stream="b-1.7", host="b", pid=1, start_ticks=7, boot_id="x" * 5000, wall_offset_ns=0,
            salt=1,
        ),
    ],
)  # fmt: skip
def test_streams_that_a_leaf_cannot_have(one: FileHeader) -> None:
    assert objection_to(one, HOST)
    assert objection_to(one, one.host) or one.host == "c"


@pytest.mark.parametrize("one", STREAMS)
def test_streams_that_it_has(one: FileHeader) -> None:
    assert objection_to(one, HOST) == ""


def test_of_very_many_processes_live_values_are_told_shortly_and_rarely(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.send()
    operations = tuple(
        ev.Operation(number=n, op="allreduce", pg_name="0", entered_ns=n, left_ns=n + (n != 3))
        for n in range(1, 41)
    )
    unfinished = msgspec.structs.replace(operations[2], left_ns=0)
    operations = (*operations[:2], unfinished, *operations[3:])
    read = ev.PulseRead(process="b-11.7", pulse=ev.Pulse(beat=1), operations=operations)

    def told(time_ns: int, state: str, *, live: bool = True) -> list[ev.Event]:
        sample = ev.ProcessSampled(process="b-11.7", state=state, cpu_s=time_ns / 1e9)
        home.backlog.add_live(Entry(STREAMS[2], 0, time_ns, read))
        home.backlog.add_live(Entry(STREAMS[2], 0, time_ns, sample))
        batches = home.backlog.take_live_batch(live=live, operations=8, sparing=True)
        return [decode_event(frame.payload) for batch in batches for frame in batch.frames]

    assert told(1, "S", live=False) == []
    first = told(2, "S")
    assert [type(event) for event in first] == [ev.PulseRead, ev.ProcessSampled]
    # The newest operations, and the one that has not returned.
    assert [op.number for op in first[0].operations] == [3, *range(33, 41)]
    assert [type(event) for event in told(3, "S")] == [ev.PulseRead]
    assert [type(event) for event in told(4, "D")] == [ev.PulseRead, ev.ProcessSampled]
    assert len(told(4 + 5_000_000_000, "D")) == 2
    home.close()


def test_the_root_holds_few_files_open_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "OPEN_AT_ONCE", 1)
    monkeypatch.setattr(mirror, "_OPEN_MOST", 1)
    home = Home(tmp_path)
    home.send()
    for _ in range(3):
        for number in range(3):
            home.write(number, 2, 10)
            home.send()
            home.arrive()
    assert len(home.mirror._open) == 1
    assert home.journals(home.root) == home.journals(home.leaf)
    home.close()


def test_a_root_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        mirror.raise_file_limit()
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


def test_a_rack_does_not_pass_on_what_it_has_heard_by_its_own_clock(tmp_path: Path) -> None:
    backlog = Backlog(RunFolder(str(tmp_path)), HOST)
    backlog.digest = Digest()
    heard = ev.HostHeard(host="b", hearing=ev.Hearing(known_ns=9, upto_ns=5))
    for event in (heard, ev.Ticked(host=HOST)):
        backlog.add_live(Entry(STREAMS[0], 0, 7, event))
    told = [frame.payload for batch in backlog.take_live_batch() for frame in batch.frames]
    assert told == [encode_event(ev.Ticked(host=HOST))]
