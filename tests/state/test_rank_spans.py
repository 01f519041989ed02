"""Long lists of ranks are short on the wire, and one tuple in memory."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.state import events as ev
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.events import decode_event, encode_event
from distwatch.state.identity import Identity
from distwatch.state.rank_spans import pack_ranks, unpack_ranks

runs = st.lists(
    st.builds(range, st.integers(0, 50), st.integers(60, 400), st.integers(1, 9)), max_size=4
)


@given(runs | st.lists(st.integers(0, 1000), max_size=80))
def test_packed_ranks_are_the_same_in_the_same_order(parts):
    ranks = tuple(n for part in parts for n in (part if isinstance(part, range) else [part]))
    spans = pack_ranks(ranks)
    assert not spans or unpack_ranks(spans) == ranks


def test_a_world_of_ten_thousand_is_short_and_shared():
    members = tuple(range(10_000))
    event = ev.GroupCreated(pg_name="0", members=members)
    payload = encode_event(event)
    assert len(payload) < 100
    first, second = decode_event(payload), decode_event(payload)
    assert first == event
    assert first.members is second.members


@pytest.mark.parametrize(
    "event",
    [
        ev.GroupCalled(number=1, members=None),
        ev.GroupCalled(number=1, members=tuple(range(0, 800, 8))),
        ev.MeshMade(device="cpu", axes=("dp",), sizes=(64,), members=tuple(range(64))),
        ev.LayoutHeld(
            framework="mesh", groups=(ev.HeldGroup(role="dp", members=tuple(range(3, 99))),)
        ),
    ],
)
def test_every_event_that_lists_members_comes_back_as_it_was(event):
    assert decode_event(encode_event(event)) == event
    assert len(encode_event(event)) < 150


def test_a_snapshot_packs_what_it_holds():
    started = ev.ProcessStarted(
        host="h", pid=1, start_ticks=1, ppid=0, role="rank", identity=Identity()
    )
    group = ev.GroupCreated(pg_name="0", members=tuple(range(5000)))
    snapshot = ev.Snapshot(kept=((1, started), (2, group)))
    payload = encode_event(snapshot)
    assert len(payload) < 300
    assert decode_event(payload) == snapshot


@pytest.mark.parametrize("spans", [(0, 1), (0, 0, 1), (0, -1, 1), (0, MOST_RANKS + 1, 1)])
def test_spans_of_no_ranks_or_of_too_many_are_no_event(spans):
    payload = msgspec.msgpack.encode({"kind": "group_created", "pg_name": "0", "spans": spans})
    assert decode_event(payload) is None
