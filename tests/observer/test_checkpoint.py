"""A checkpoint saves time and changes nothing: what does not fit the journals does not count."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distwatch.errors import PartialData
from distwatch.observer.journals import run_state, sealed
from distwatch.observer.journals.checkpoint import path_of, read_checkpoint
from distwatch.observer.journals.run_state import load_run, load_state, resume_state
from distwatch.observer.journals.segments import Segment
from distwatch.report.incidents import incidents_of
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader, Record
from distwatch.state.model import RunState
from distwatch.state.process_reducer import INSIDE
from tests.observer.rank_process import RankProcess
from tests.state.test_folding import inside, outside

MEMBERS = tuple(range(100))
FRAMES = (ev.Frame(function="main", file="train.py", line=3),) * 3


@pytest.fixture(autouse=True)
def every_reading_is_worth_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "WORTH_S", -1.0)


def header_of(stream: str, salt: int = 7) -> FileHeader:
    return FileHeader(
        stream=stream, host="a", pid=1, start_ticks=1, boot_id="b", wall_offset_ns=5, salt=salt
    )


class Written:
    """One journal of a folder, appended to as an observer does."""

    def __init__(self, folder: RunFolder, stem: str, stream: str) -> None:
        self.segment = Segment(folder.journal(stem), header_of(stream))
        self.seq = 0

    def append(self, *events: ev.Event) -> None:
        first, self.seq = self.seq + 1, self.seq + len(events)
        self.segment.append(
            [
                Record(seq=first + n, time_ns=10 * (first + n), payload=encode_event(event))
                for n, event in enumerate(events)
            ]
        )
        self.segment.close()


def afresh(folder: RunFolder) -> RunState:
    """The state from all journals, whatever the checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        copy = RunFolder(f"{place}/{folder.run_id}")
        shutil.copytree(folder.path, copy.path, ignore=shutil.ignore_patterns("*.checkpoint"))
        return load_state(copy)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[ev.Event]:
    """The records that are folded from now on."""
    folded: list[ev.Event] = []
    fold = run_state.reduce

    def counted(
        state: RunState, header: FileHeader, seq: int, time_ns: int, event: ev.Event
    ) -> None:
        folded.extend([event] if seq else [])
        fold(state, header, seq, time_ns, event)

    monkeypatch.setattr(run_state, "reduce", counted)
    return folded


def job(folder: RunFolder) -> tuple[Written, Written]:
    """A rank and an observer, with all that is written in a shorter form."""
    rank = Written(folder, "a-1", "a-1.1")
    seen = Written(folder, "observer-a-9", "observer:a-9.1#00000007")
    rank.append(
        ev.GroupCreated(pg_name="0", pg_desc="d", backend="gloo", members=MEMBERS, timeout_s=None),
        ev.GroupCalled(number=1, members=MEMBERS),
        ev.MeshMade(device="cpu", axes=("dp",), sizes=(100,), members=MEMBERS),
        ev.ProcessEnding(),
    )
    stack = ev.ThreadStack(name="MainThread", os_thread_id=1, frames=FRAMES)
    seen.append(
        ev.StackTaken(process="a-1.1", threads=(stack, stack)),
        ev.ExitSeen(process="a-1.1", exit_code=1),
    )
    return rank, seen


def test_a_second_reading_folds_nothing_and_gives_the_same(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(folder)
    first, folded = load_run(folder), counting(monkeypatch)
    second = load_run(folder)
    assert second == first
    assert (first.first_ns, first.last_ns) == (10, 40)
    assert second.state == afresh(folder)
    assert len(folded) == 6, "those of the fresh reading"
    threads = second.state.processes["a-1.1"].outside.stack
    assert threads is not None
    assert threads.threads[0].frames is threads.threads[1].frames


def test_the_incident_that_stands_is_no_earlier_one(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, seen = job(folder)
    hung = Finding(code="collective.rank_missing", severity="hang", summary="s", culprit_ranks=(1,))
    gone = Finding(code="process.killed", severity="crash", summary="s", culprit_ranks=(0,))
    for number, finding in enumerate((hung, gone), 1):
        seen.append(ev.FindingsJudged(host="a", findings=(finding,), incident=number))
    load_run(folder)
    folded = counting(monkeypatch)
    told = incidents_of(load_run(folder).state)
    assert not folded, "it was read from the checkpoint"
    assert [(one.number, one.current) for one in told] == [(1, False), (2, True)]


def test_only_what_came_after_it_is_folded(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, _ = job(folder)
    load_state(folder)
    folded = counting(monkeypatch)
    rank.append(ev.HookFailed(hook="h", error="e"))
    Written(folder, "a-2", "a-2.1").append(ev.ProcessEnding())
    state = load_state(folder)
    assert folded == [ev.HookFailed(hook="h", error="e"), ev.ProcessEnding()]
    assert state == afresh(folder)
    load_state(folder)
    assert len(folded) == 2 + 8, "the newer checkpoint has all of it"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"state", b"State", 1)),
        lambda path: path.write_bytes(
            bytes(b ^ (n == 60) for n, b in enumerate(path.read_bytes()))
        ),
        lambda path: (path.rename(path.with_suffix(".real")), path.symlink_to(f"{path.stem}.real")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["empty", "cut", "longer", "other head", "flipped bit", "link", "pipe"],
)
def test_a_checkpoint_that_is_not_whole_only_costs_time(
    folder: RunFolder, spoil: Callable[[Path], object]
) -> None:
    job(folder)
    state = load_state(folder)
    spoil(Path(path_of(folder)))
    assert read_checkpoint(folder) is None
    assert load_state(folder) == state


def test_one_of_another_shape_of_the_state_does_not_count(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(folder)
    load_state(folder)
    assert read_checkpoint(folder) is not None
    monkeypatch.setattr(sealed, "__version__", "0")
    sealed._shape.cache_clear()
    try:
        assert read_checkpoint(folder) is None
    finally:
        sealed._shape.cache_clear()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_does_not_count(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    job(folder)
    load_state(folder)
    os.chown(path_of(folder), 4711, 4711)
    monkeypatch.setattr(os, "getuid", lambda: 4712)
    assert read_checkpoint(folder) is None


@pytest.mark.parametrize("what", ["cut", "rewritten", "gone", "replaced"])
def test_journals_that_are_not_what_was_read_are_read_again(folder: RunFolder, what: str) -> None:
    rank, _ = job(folder)
    load_state(folder)
    path = Path(rank.segment.path)
    content = path.read_bytes()
    if what == "cut":
        os.truncate(path, len(content) - 20)
    elif what == "rewritten":
        path.write_bytes(content[:-40] + bytes(40))
        os.utime(path, ns=(1, 1))
    elif what == "gone":
        path.unlink()
    else:
        path.rename(path.with_suffix(".other"))
        path.write_bytes(content)
    state = load_state(folder)
    assert state == afresh(folder)
    assert (what in ("cut", "rewritten", "gone")) == (
        "a-1.1" not in state.processes or state.processes["a-1.1"].ending is None
    )


def test_what_is_in_a_ring_is_in_no_checkpoint(
    folder: RunFolder, start_rank: Callable[..., RankProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    job(folder)
    rank = start_rank()
    rank.do("steps 3")
    first = load_state(folder)
    checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    assert {file.header.stream for file in checkpoint.files} == {"a-1.1", "observer:a-9.1#00000007"}
    assert set(checkpoint.state.processes) == {"a-1.1"}
    folded = counting(monkeypatch)
    rank.do("steps 1")
    second = load_state(folder)
    assert len(second.processes[rank.key].steps) == 4
    assert len(folded) == second.streams[rank.key], "those of the ring"
    assert second.processes["a-1.1"] == first.processes["a-1.1"]


def test_an_observer_that_starts_again_continues_from_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, _ = job(folder)
    without = resume_state(folder)
    assert read_checkpoint(folder) is not None
    rank.append(ev.HookFailed(hook="h", error="e"))
    folded = counting(monkeypatch)
    resumed = resume_state(folder)
    assert folded == [ev.HookFailed(hook="h", error="e")]
    Path(path_of(folder)).unlink()
    assert resumed == resume_state(folder) != without


def test_a_folder_without_records_leaves_none(folder: RunFolder) -> None:
    with pytest.raises(PartialData):
        load_state(folder)
    assert not os.path.exists(path_of(folder))


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, content: bytes) -> None:
        raise OSError(28, "No space left on device", path)

    job(folder)
    monkeypatch.setattr(sealed, "write_whole", full)
    assert load_state(folder).processes["a-1.1"].ending is not None


def test_damage_that_was_met_is_told_again(folder: RunFolder) -> None:
    rank, _ = job(folder)
    path = Path(rank.segment.path)
    path.write_bytes(path.read_bytes() + b"torn tail")
    first, second = load_state(folder), load_state(folder)
    assert read_checkpoint(folder) is not None
    assert any(host.not_observed for host in first.hosts.values())
    assert second == first


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.one_of(inside, outside), max_size=12),
    st.lists(st.one_of(inside, outside), max_size=12),
    st.lists(outside, max_size=12),
    st.lists(outside, max_size=12),
)
def test_the_checkpoint_and_the_rest_give_what_all_gives(
    before: list[ev.Event], after: list[ev.Event], seen: list[ev.Event], seen_after: list[ev.Event]
) -> None:
    with tempfile.TemporaryDirectory(prefix="dw-") as place:
        folder = RunFolder(f"{place}/r")
        folder.create()
        own = [e for e in (*before, *after) if type(e) in INSIDE]
        rank = Written(folder, "a-1", "a-1.1")
        observer = Written(folder, "observer-a-9", "observer:a-9.1#00000007")
        rank.append(ev.ProcessEnding(), *own[: len(own) // 2])
        observer.append(ev.Ticked(host="a"), *seen)
        load_state(folder)
        assert read_checkpoint(folder) is not None
        rank.append(*own[len(own) // 2 :])
        observer.append(*seen_after)
        assert load_state(folder) == afresh(folder)
