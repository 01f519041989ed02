"""What a viewer is told of a large run is small, and the newest of what replaces itself."""

from __future__ import annotations

from itertools import pairwise

import pytest

from distwatch.observer.journals.checkpoint import encode_state, seal_state, unseal_state
from distwatch.observer.journals.reading import Entry
from distwatch.observer.viewers import differences
from distwatch.observer.viewers.differences import Differences, batches_of, entries_of
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader
from distwatch.state.identity import Identity
from distwatch.state.model import RunState
from distwatch.state.recorder_entries import Collective
from distwatch.state.reducer import reduce

RANKS = 1024
BYTES_A_RANK = 500
"""5 MB for ten thousand ranks."""


def header_of(stream: str, host: str) -> FileHeader:
    return FileHeader(
        stream=stream, host=host, pid=1, start_ticks=1, boot_id=host, wall_offset_ns=5, salt=7
    )


def rank_tells(rank: int, host: str) -> list[ev.Event]:
    """From its start to a hang, with times of its own."""
    site = ev.Site(file="/home/user/train.py", line=212, function="train_step")
    calls = tuple(
        Collective(
            pg_name="0", pg_desc="default_pg", seq=seq, op="gloo:all_reduce", retired=seq < 63,
            input_sizes=((25_000_000,),), input_dtypes=("BFloat16",),
            created_wall_ns=10**18 + seq * 10**8 + rank * 977,
        )
        for seq in range(64)
    )  # fmt: skip
    return [
        ev.ProcessStarted(
            host=host, pid=1000 + rank, start_ticks=1, ppid=1, role="rank", python="3.11.7",
            identity=Identity(launcher="torchrun", global_rank=rank, world_size=RANKS),
            command=("/opt/venv/bin/python", "-u", "train.py"), cwd="/home/user",
        ),
        *(ev.IntegrationChanged(name=name, status="armed") for name in ("torch", "ray", "peft")),
        ev.GroupCreated(
            pg_name="0", pg_desc="default_pg", backend="gloo", members=tuple(range(RANKS)),
            timeout_s=1800.0, site=site,
        ),
        ev.CollectivesDumped.of("suspected", calls),
    ]  # fmt: skip


def observer_tells(rank: int, key: str) -> list[ev.Event]:
    frames = tuple(
        ev.Frame(function=f"forward_{n}", file=f"/opt/model/layer{n}.py", line=40 + n)
        for n in range(30)
    )
    thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=frames)
    operations = tuple(
        ev.Operation(
            number=n, op="allreduce", pg_name="0", seq=n, site=1, entered_ns=n * 10**8 + rank * 977,
            left_ns=n * 10**8 + rank * 977 + 300_000, numel=25_000_000, dtype="bfloat16",
        )
        for n in range(8)
    )  # fmt: skip
    progress = ev.GroupProgress(pg_name="0", enqueued=64, completed=63, changed_ns=rank * 977)
    return [
        ev.StackTaken(process=key, threads=(thread,), unchanged_since_ns=rank * 977),
        ev.PulseRead(
            process=key, operations=operations, pulse=ev.Pulse(beat=rank, groups=(progress,))
        ),
    ]


def test_a_picture_of_many_ranks_takes_few_bytes_for_each() -> None:
    state = RunState(run_id="r")
    for rank in range(RANKS):
        host = f"node{rank // 8:03}"
        key = f"{host}-{1000 + rank}.1"
        for stream, told in (
            (key, rank_tells(rank, host)),
            (f"observer:{host}-9.1#7", observer_tells(rank, key)),
        ):
            first = state.streams.get(stream, 0) + 1
            for seq, event in enumerate(told, first):
                reduce(state, header_of(stream, host), seq, 10 * seq + rank, event)
    picture = seal_state(encode_state(state))
    assert picture is not None
    assert len(picture) < BYTES_A_RANK * RANKS
    assert unseal_state(picture) == state


def entry(seq: int, event: ev.Event, *, stream: str = "observer:a-9.1#7") -> Entry:
    return Entry(header_of(stream, "a"), seq, 10 * seq, event, encode_event(event))


def sampled(cpu_s: float) -> ev.ProcessSampled:
    return ev.ProcessSampled(process="a-1.1", state="S", cpu_s=cpu_s)


def told_by(changes: Differences) -> list[Entry]:
    return [one for batch in batches_of(changes.items()) for one in entries_of(batch)]


def test_of_values_that_replace_each_other_the_newest_is_told_and_no_stream_goes_back() -> None:
    changes = Differences()
    for seq, event in enumerate((sampled(1.0), ev.NotObserved(host="a", what="w", why="y")), 1):
        changes.take(entry(seq, event))
    changes.take(entry(3, sampled(3.0)))
    changes.take(entry(4, ev.ExitSeen(process="a-1.1")))
    told = told_by(changes)
    assert [one.seq for one in told] == [2, 3, 4]
    assert [one.event for one in told if isinstance(one.event, ev.ProcessSampled)] == [sampled(3.0)]


def test_a_copy_is_continued_by_itself() -> None:
    changes = Differences()
    changes.take(entry(1, ev.ExitSeen(process="a-1.1")))
    copy = changes.copy()
    changes.take(entry(2, ev.ExitSeen(process="a-2.1")))
    assert [len(told_by(one)) for one in (copy, changes)] == [1, 2]


def test_more_than_is_worth_telling_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "DIFFERENCES_MOST", 1000)
    changes = Differences()
    for seq in range(1, 50):
        changes.take(entry(seq, ev.ExitSeen(process=f"a-{seq}.1")))
        changes.take(entry(0, sampled(float(seq))))
    assert changes.too_many
    assert told_by(changes) == []


def test_batches_fit_a_frame() -> None:
    event = ev.HookFailed(hook="h", error="e" * 100_000)
    items = [
        (header_of(stream, "a"), seq, seq, encode_event(event))
        for stream in ("a-1.1", "a-2.1")
        for seq in range(1, 9)
    ]
    batches = list(batches_of(items))
    assert len(batches) > 1
    assert all(sum(len(f.payload) for f in batch.frames) < 1 << 19 for batch in batches)
    entries = [one for batch in batches for one in entries_of(batch)]
    assert [(one.header.stream, one.seq) for one in entries] == [
        (h.stream, n) for h, n, _, _ in items
    ]
    assert all(one.seq < two.seq for one, two in pairwise(entries) if one.header == two.header)
