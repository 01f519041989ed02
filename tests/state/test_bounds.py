"""Numbers from outside are cut, refused or told, and never counted through."""

from __future__ import annotations

import tracemalloc
import typing
from random import Random

import msgspec
import pytest

from distwatch.state import events as ev
from distwatch.state.bounds import MOST_LISTED, MOST_RANKS, Finite, whole_number
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader, Record, encode_frame, read_frame
from distwatch.state.identity import Identity, identify
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce
from tests.support.hostile import value_of

EVENTS = tuple(kind for kind in ev.Event.__subclasses__() if kind is not ev.UnknownEvent)
HEADER = FileHeader(
    stream="h-7.5", host="h", pid=7, start_ticks=5, boot_id="b", wall_offset_ns=0, salt=9
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8), (" 8\n", 8), ("0", 0), ("", None), (None, None), ("-1", None), ("²", None), ("٣", None),
        ("1e9", None), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_a_text_is_a_number_or_none(text: str | None, number: int | None) -> None:
    assert whole_number(text) == number


def test_a_world_from_an_environment_is_cut_and_told() -> None:
    found = identify({"RANK": "3", "WORLD_SIZE": "900000000", "LOCAL_WORLD_SIZE": "8"})
    assert (found.global_rank, found.world_size, found.local_world_size) == (3, MOST_RANKS, 8)
    assert found.beyond == ("WORLD_SIZE=900000000",)
    assert identify({"RANK": "²", "WORLD_SIZE": "9" * 5000}) == Identity(launcher="env")


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (ev.IdentityConfirmed, "world_size"),
        (ev.InitPlanned, "world_size"),
        (ev.ExtraGroupJoined, "size"),
        (ev.RayActorSeen, "world_size"),
    ],
)
@pytest.mark.parametrize(("said", "held"), [(900_000_000, MOST_RANKS), (-1, 0)])
def test_a_world_in_an_event_is_cut_and_told(
    kind: type[msgspec.Struct], field: str, said: int, held: int
) -> None:
    required = {
        f.name: value_of(f.type, Random(1)) for f in msgspec.structs.fields(kind) if f.required
    }
    plain = {"kind": kind.__struct_config__.tag, **required, field: said}
    event: typing.Any = decode_event(msgspec.msgpack.encode(plain))
    assert getattr(event, field) == held
    assert event.beyond == (f"{field.upper()}={said}",)
    assert decode_event(encode_event(event)) == event


def _finite_fields() -> list[tuple[type, str, typing.Any]]:
    return [
        (kind, name, hint)
        for kind in EVENTS
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
        if str(Finite) in str(hint) or hint == Finite
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_finite_number_is_no_event(number: float) -> None:
    tried = 0
    for kind, name, _ in _finite_fields():
        fields = {f.name: f for f in msgspec.structs.fields(kind)}
        plain: dict[str, typing.Any] = {
            n: value_of(f.type, Random(2)) for n, f in fields.items() if f.required
        }
        if "dict" in str(fields[name].type):
            continue
        plain |= {"kind": kind.__struct_config__.tag, name: number}
        assert decode_event(msgspec.msgpack.encode(plain)) is None, (kind, name)
        tried += 1
    assert tried > 6


def test_no_float_of_an_event_is_without_a_bound() -> None:
    for kind in EVENTS:
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            bare = str(hint).replace(str(Finite), "")
            assert "float" not in bare, f"{kind.__name__}.{name}"


def test_a_circle_of_steps_ends() -> None:
    state = RunState()
    for seq, parent in enumerate((2, 3, 1), 1):
        step = ev.StepStarted(step=seq, name="from_pretrained", parent=parent)
        reduce(state, HEADER, seq, seq, step)
    process = state.processes[HEADER.stream]
    assert [step.parent for step in process.open_steps()] == [None, None, 1]


def test_few_bytes_cannot_name_ranks_without_end() -> None:
    state, written = RunState(), 0
    tracemalloc.start()
    for seq in range(1, 40):
        plain = {"kind": "group_created", "pg_name": str(seq), "spans": (0, MOST_RANKS - seq, 1)}
        payload = msgspec.msgpack.encode(plain)
        written += len(payload)
        event = decode_event(payload)
        assert isinstance(event, ev.GroupCreated)
        reduce(state, HEADER, seq, seq, event)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    process = state.processes[HEADER.stream]
    assert sum(len(group.members) for group in process.groups.values()) <= MOST_LISTED
    assert list(process.groups)[-1] == "39"
    assert "groups" in process.outside.not_observed
    assert written < 3000
    # A place in a list is 8 bytes; the lists that were not kept may stay in the memo of equal lists.
    assert held < 40 * MOST_RANKS * 8 + (16 << 20)


def test_one_event_cannot_name_ranks_without_end() -> None:
    group = {"role": "dp", "spans": (0, MOST_RANKS, 1)}
    held = {"kind": "layout_held", "framework": "megatron"}
    for count, is_event in ((8, True), (9, False), (5000, False)):
        payload = msgspec.msgpack.encode({**held, "groups": [group] * count})
        assert (decode_event(payload) is not None) == is_event
    parts = [
        (1, {"kind": "group_created", "pg_name": str(n), "spans": (0, MOST_RANKS, 1)})
        for n in range(20)
    ]
    taken = decode_event(msgspec.msgpack.encode({"kind": "snapshot_taken", "packed": parts}))
    assert isinstance(taken, ev.Snapshot)
    assert len(taken.kept) == 8


def test_numbers_beyond_63_bits_are_no_frame() -> None:
    for seq, time_ns in ((1 << 63, 1), (1, 1 << 63), ((1 << 64) - 1, 1)):
        frame = encode_frame(9, Record(seq=seq, time_ns=time_ns, payload=b"x"))
        assert read_frame(frame, 0, 9) is None


def test_what_is_no_utf_8_is_written_all_the_same() -> None:
    event = ev.ExceptionUncaught(
        type_name="OSError", message="no file 'a\udcff'", traceback=("\udcff",)
    )
    assert decode_event(encode_event(event)) == ev.ExceptionUncaught(
        type_name="OSError", message="no file 'a?'", traceback=("?",)
    )
