"""Journal and pulse bytes: damage loses what it hit and nothing before it; garbage never raises."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import (
    HEADER_SIZE,
    FileHeader,
    Record,
    decode_header,
    encode_frame,
    encode_header,
    read_frame,
    scan,
)
from distwatch.state.pulse import FILE_SIZE, PAGE_SIZE, decode_operations, decode_page, encode_page
from distwatch.state.recorder_entries import Collective

SALT = 12345
HEADER = FileHeader(
    stream="h-1.1", host="h", pid=1, start_ticks=1, boot_id="b", wall_offset_ns=0, salt=SALT
)
payloads = st.lists(st.binary(max_size=80), min_size=1, max_size=12)


def journal(contents: list[bytes]) -> tuple[bytes, list[int]]:
    """A segment, and where each frame ends."""
    file, ends = encode_header(HEADER), []
    for seq, payload in enumerate(contents, start=1):
        file += encode_frame(SALT, Record(seq=seq, time_ns=seq, payload=payload))
        ends.append(len(file))
    return file, ends


def read(file: bytes) -> list[bytes]:
    return [record.payload for _, record in scan(file, SALT)]


@settings(max_examples=200, deadline=None)
@given(payloads, st.data())
def test_a_torn_tail_loses_only_the_torn_frame(contents: list[bytes], data: st.DataObject) -> None:
    file, ends = journal(contents)
    cut = data.draw(st.integers(HEADER_SIZE, len(file)))
    whole = sum(end <= cut for end in ends)
    found = read(file[:cut])
    # The padding of a frame carries nothing: cut there, the frame may still be whole.
    assert found[:whole] == contents[:whole]
    assert found == contents[: len(found)]
    assert len(found) <= whole + 1


@settings(max_examples=300, deadline=None)
@given(payloads, st.data())
def test_a_flipped_byte_loses_only_its_frame(contents: list[bytes], data: st.DataObject) -> None:
    file, ends = journal(contents)
    at = data.draw(st.integers(HEADER_SIZE, len(file) - 1))
    damaged = bytearray(file)
    damaged[at] ^= data.draw(st.integers(1, 255))
    hit = next(i for i, end in enumerate(ends) if at < end)
    found = read(bytes(damaged))
    assert found in (contents, contents[:hit] + contents[hit + 1 :])


@settings(max_examples=100, deadline=None)
@given(payloads, payloads)
def test_a_payload_cannot_forge_a_frame(contents: list[bytes], forged: list[bytes]) -> None:
    inner = b"".join(encode_frame(SALT + 1, Record(seq=9, time_ns=9, payload=p)) for p in forged)
    file, _ = journal([*contents, inner])
    assert read(file) == [*contents, inner]
    # Also where its own frame is destroyed and the scan walks through it.
    broken = file[: -len(inner)] + inner
    head_at = len(file) - len(inner) - 32
    damaged = bytearray(broken)
    damaged[head_at] ^= 0xFF
    assert read(bytes(damaged)) == contents


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_never_an_exception(garbage: bytes) -> None:
    decode_event(garbage)
    decode_header(garbage)
    decode_page(garbage)
    decode_operations(garbage.ljust(FILE_SIZE, b"\xff"))
    read_frame(garbage, 0, SALT)
    list(scan(garbage, SALT, 0))


examples = st.sampled_from(
    [
        ev.StepStarted(step=1, name="n", site=ev.Site(file="f", line=1)),
        ev.GroupCreated(pg_name="0", members=(0, 1)),
        ev.ExceptionUncaught(type_name="E", message="m", traceback=("a", "b")),
        ev.CollectivesDumped.of(
            "r",
            tuple(
                Collective(pg_name="0", seq=n, op="gloo:all_reduce", created_wall_ns=n << 40)
                for n in range(1, 5)
            ),
        ),
        ev.PulseRead(process="p", pulse=ev.Pulse(beat=1, groups=(ev.GroupProgress(pg_name="0"),))),
    ]
)


@settings(max_examples=300, deadline=None)
@given(examples, st.data())
def test_a_mutated_event_is_an_event_or_nothing(event: ev.Event, data: st.DataObject) -> None:
    payload = bytearray(encode_event(event))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decode_event(bytes(payload))
    assert decode_event(encode_event(event)) == event


def test_hostile_nesting_and_lengths_are_refused() -> None:
    assert decode_event(b"\x91" * 200_000) is None
    assert decode_event(b"\xdd\xff\xff\xff\xff") is None
    assert decode_event(b"\x81\xa4kind\xa1\xff") is None


def test_kinds_of_the_future_survive() -> None:
    payload = msgspec.msgpack.encode({"kind": "warp_core_breached", "level": 11})
    event = decode_event(payload)
    assert isinstance(event, ev.UnknownEvent)
    assert event.kind == "warp_core_breached"
    assert encode_event(event) == payload


def test_fields_of_the_future_are_left_out() -> None:
    payload = msgspec.msgpack.encode({"kind": "process_ending", "reason": "exit", "mood": "calm"})
    assert decode_event(payload) == ev.ProcessEnding(reason="exit")


def test_a_known_kind_with_wrong_types_is_damage() -> None:
    assert decode_event(msgspec.msgpack.encode({"kind": "step_ended", "step": "one"})) is None


def test_a_page_under_its_lock_is_not_read() -> None:
    body = encode_page(ev.Pulse(beat=3, beat_ns=4))
    assert body is not None
    whole = (2).to_bytes(8, "little") + body
    assert decode_page(whole.ljust(PAGE_SIZE, b"\0")) == ev.Pulse(beat=3, beat_ns=4)
    assert decode_page((3).to_bytes(8, "little") + body) is None
    assert decode_page(whole[:-1]) is None
