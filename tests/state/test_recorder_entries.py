"""A dump of the flight recorder is short on the wire, and loses none of its entries there."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.state import events as ev
from distwatch.state import process_events
from distwatch.state.events import decode_event, encode_event
from distwatch.state.recorder_entries import (
    Collective,
    PackedEntries,
    completed_in,
    unpack_entries,
)

entries = st.lists(
    st.builds(
        Collective,
        pg_name=st.sampled_from(["0", "1"]),
        seq=st.one_of(st.integers(-1, 200), st.integers(0, (1 << 64) - 1)),
        op=st.sampled_from(["gloo:all_reduce", "gloo:broadcast", "send 0->1"]),
        is_p2p=st.booleans(),
        retired=st.booleans(),
        input_sizes=st.sampled_from([(), ((8,),), ((9,), (2, 3))]),
        created_wall_ns=st.integers(-(1 << 63), (1 << 64) - 1),
        timeout_ms=st.sampled_from([None, 1000]),
    ),
    max_size=8,
).map(tuple)


def loop(count: int, *, clock: int = 0, last: str = "gloo:all_reduce") -> tuple[Collective, ...]:
    """A training loop's entries; the last one may be another call."""
    return tuple(
        Collective(
            pg_name="0", pg_desc="default_pg", seq=seq, op=last if seq == count else "gloo:all_reduce",
            retired=seq < count, state="scheduled", input_sizes=((25_000_000,),),
            output_sizes=((25_000_000,),), input_dtypes=("BFloat16",),
            created_wall_ns=1_790_000_000_000_000_000 + clock + seq * 100_000_000,
            timeout_ms=1_800_000,
        )
        for seq in range(1, count + 1)
    )  # fmt: skip


def read_again(dumped: ev.CollectivesDumped) -> ev.CollectivesDumped:
    again = decode_event(encode_event(dumped))
    assert isinstance(again, ev.CollectivesDumped)
    return again


@given(entries)
def test_every_entry_comes_back_in_its_place(told: tuple[Collective, ...]) -> None:
    dumped = ev.CollectivesDumped.of("asked", told)
    again = read_again(dumped)
    assert again == dumped
    assert again.entries == told
    assert again.completed() == completed_in(told)
    assert {alike(entry) for entry in again.kinds} == {alike(entry) for entry in told}


def alike(entry: Collective) -> Collective:
    return msgspec.structs.replace(entry, seq=0, created_wall_ns=0)


def test_what_a_loop_repeats_is_written_once() -> None:
    dumped = ev.CollectivesDumped.of("asked", loop(64))
    plain = encode_event(ev.CollectivesDumped(reason="asked", listed=loop(64)))
    assert len(encode_event(dumped)) * 10 < len(plain)
    # Journals of before have the entries themselves.
    before = decode_event(plain)
    assert isinstance(before, ev.CollectivesDumped)
    assert before.entries == dumped.entries


def test_the_one_odd_call_of_a_loop_is_kept() -> None:
    dumped = ev.CollectivesDumped.of("asked", loop(64, last="gloo:broadcast"))
    again = read_again(dumped)
    assert [entry.op for entry in again.entries[-2:]] == ["gloo:all_reduce", "gloo:broadcast"]
    assert again.entries[-1].seq == 64
    assert not again.entries[-1].retired


def test_ranks_that_call_the_same_share_its_words() -> None:
    one = read_again(ev.CollectivesDumped.of("asked", loop(8)))
    other = read_again(ev.CollectivesDumped.of("asked", loop(9, clock=17)))
    assert one.entries[3].input_sizes is other.entries[5].input_sizes
    assert one.entries[3].op is other.entries[5].op


def test_a_dump_without_entries_says_why() -> None:
    dumped = ev.CollectivesDumped(reason="asked", not_observed="this torch has no flight recorder")
    assert read_again(dumped) == dumped


_KIND = {"pg_name": "0", "seq": 0, "op": "x"}


@pytest.mark.parametrize(
    "packed",
    [
        ([_KIND], [0, 0], [1], [1, 1]),
        ([_KIND], [1], [1], [1]),
        ([_KIND], [-1], [1], [1]),
        ([], [0], [1], [1]),
        ([_KIND], [0, 0], [1 << 61, 1 << 61], [0, 0]),
        ([_KIND], [0], [0], [1 << 63]),
    ],
    ids=["columns of other lengths", "no such kind", "before the first kind", "no kinds",
         "numbers that add up to too much", "a time that is none"],
)  # fmt: skip
def test_what_cannot_have_been_packed_is_damage(packed: object) -> None:
    payload = msgspec.msgpack.encode(
        {"kind": "collectives_dumped", "reason": "r", "packed": packed}
    )
    assert decode_event(payload) is None


def test_only_who_reads_the_entries_unpacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand ranks have 640,000: to unpack them takes as long as to read all else of the run."""
    unpacked: list[object] = []

    def counted(packed: PackedEntries) -> tuple[Collective, ...]:
        unpacked.append(packed)
        return unpack_entries(packed)

    monkeypatch.setattr(process_events, "unpack_entries", counted)
    again = read_again(ev.CollectivesDumped.of("asked", loop(64)))
    assert again.completed() == {"0": 63}
    assert again.find("1", 64) is None, "a group that none of them is of"
    assert encode_event(again)
    assert unpacked == []
    assert again.find("0", 64) == loop(64)[-1]
    assert again.entries == loop(64)
    assert len(unpacked) == 1
