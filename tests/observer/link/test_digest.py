"""What a rack's root passes on, and what stays there until somebody asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.observer.journals.reading import Entry
from distwatch.observer.journals.segments import Segment
from distwatch.observer.link.backlog import Backlog
from distwatch.observer.link.digest import REPRESENTATIVES, Digest
from distwatch.observer.link.messages import Frame
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader, Record, process_key
from distwatch.state.model import RunState
from distwatch.state.recorder_entries import Collective
from distwatch.state.reducer import reduce


def header(host: str, pid: int, *, observer: bool = False) -> FileHeader:
    key = process_key(host, pid, 7)
    return FileHeader(
        stream=f"observer:{key}#{pid:08x}" if observer else key,
        host=host, pid=pid, start_ticks=7, boot_id="x", wall_offset_ns=1, salt=pid,
    )  # fmt: skip


def record(event: ev.Event, seq: int = 1) -> Record:
    return Record(seq=seq, time_ns=seq, payload=encode_event(event))


def stack(rank: int, line: int) -> ev.StackTaken:
    frame = ev.Frame(function="train", file="train.py", line=line)
    main = ev.ThreadStack(name=ev.MAIN_THREAD, os_thread_id=rank, frames=(frame,))
    return ev.StackTaken(process=f"p{rank}", threads=(main,), settled_cpu_s=rank)


def dump(seq: int) -> ev.CollectivesDumped:
    entry = Collective(pg_name="0", seq=seq, op="all_reduce", created_wall_ns=seq)
    return ev.CollectivesDumped.of("r", (entry,))


def passed(digest: Digest, event: ev.Event, stream: str = "s") -> ev.Event | None:
    found = digest.passed(stream, record(event))
    return decode_event(found.payload) if found else None


@pytest.mark.parametrize(
    "fact",
    [
        ev.StepStarted(step=1, name="step"),
        ev.ExitSeen(process="p", signal=9),
        ev.LinkChanged(host="h", peer="p", linked=True),
        ev.FindingsJudged(host="h"),
    ],
)
def test_facts_are_passed_on(fact: ev.Event) -> None:
    assert passed(Digest(), fact) == fact


def test_values_are_records_only_during_a_look() -> None:
    digest, pulse = Digest(), ev.PulseRead(process="p", pulse=ev.Pulse(beat=1))
    assert passed(digest, pulse) is None
    with digest.looking((), whole=False):
        assert passed(digest, pulse) == pulse
    assert passed(digest, pulse) is None


def test_of_equal_stacks_a_few_are_passed_on_and_all_of_suspects() -> None:
    digest = Digest()

    def told(ranks: range, line: int) -> list[int]:
        return [rank for rank in ranks if passed(digest, stack(rank, line))]

    assert told(range(10), 5) == list(range(REPRESENTATIVES))
    assert told(range(9, 10), 6) == [9], "it stands elsewhere"
    with digest.looking(("p8",), whole=False):
        assert told(range(10), 5) == [*range(REPRESENTATIVES), 8]
    with digest.looking((), whole=True):
        assert told(range(10), 5) == list(range(10))


def test_a_dump_that_is_left_out_is_no_lost_record() -> None:
    digest, state = Digest(), RunState()
    for rank in range(REPRESENTATIVES + 1):
        one = header("h", 10 + rank)
        events = [ev.StepStarted(step=1, name="step"), dump(3), ev.StepStarted(step=2, name="step")]
        for seq, event in enumerate(events, 1):
            found = digest.passed(one.stream, record(event, seq))
            assert found is not None
            read = decode_event(found.payload)
            assert read is not None
            reduce(state, one, found.seq, found.time_ns, read)
    held = [process.collectives is not None for process in state.processes.values()]
    assert held == [True] * REPRESENTATIVES + [False]
    for process in state.processes.values():
        assert process.gaps == 0
        assert [step.step for step in process.open_steps()] == [1, 2]


def test_what_cannot_be_read_is_passed_on_as_it_is() -> None:
    broken = Record(seq=1, time_ns=1, payload=b"\xc1")
    assert Digest().passed("s", broken) == broken


def frames_of(backlog: Backlog) -> list[tuple[str, Frame]]:
    found = []
    while backlog.behind:
        handed = backlog.begin_history()
        for batch in backlog.take_history(backlog.read_history(handed)):
            found += [(batch.headers[frame.stream].host, frame) for frame in batch.frames]
    for batch in backlog.take_live_batch():
        found += [(batch.headers[frame.stream].host, frame) for frame in batch.frames]
    return found


def test_a_racks_backlog_is_of_all_its_hosts_from_disk_and_live(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    folder.create()
    pulse = ev.PulseRead(process="p", pulse=ev.Pulse(beat=1))
    streams = [header("a", 11), header("b", 12), header("b", 13, observer=True)]
    for one in streams:
        segment = Segment(folder.journal(f"{one.host}-{one.pid}"), one)
        segment.append([record(ev.StepStarted(step=1, name="step"), 1), record(pulse, 2)])
        segment.close()
    backlog = Backlog(folder, "a")
    backlog.digest = Digest()
    backlog.resume(1, {})
    assert [(host, frame.seq) for host, frame in frames_of(backlog)] == [
        ("a", 1),
        ("b", 1),
        ("b", 1),
    ]
    entry = Entry(streams[2], 3, 3, pulse)
    backlog.add_record(entry.header, record(pulse, 3))
    backlog.add_live(entry)
    backlog.add_record(streams[1], record(ev.StepEnded(step=1), 3))
    assert [(host, frame.seq) for host, frame in frames_of(backlog)] == [("b", 3), ("b", 0)]
