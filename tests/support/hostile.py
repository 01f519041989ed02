"""Values that are of the right type and of no sense: what a liar, or a damaged file, could write."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from random import Random
from types import UnionType
from typing import Annotated, Any, Literal

import msgspec

from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.loads import LoadProgress
from tests.diagnosis.recorded import READING, WAITING, RecordedJob

INTEGERS = (
    *(0, 1, 2, 3, 5, 7, 64), *(-1, -2), 255, 4095, 1 << 18, (1 << 18) + 1, 900_000_000, 1 << 31,
    1 << 53, 1 << 62, (1 << 63) - 1, (1 << 64) - 1, -(1 << 31), -(1 << 63),
)  # fmt: skip
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-9, 300.0, 1e12, -1e12, 1e308, float("inf"), float("nan"))
WORDS = (
    "", "0", "1", "default_pg", "init_process_group", "new_group", "from_pretrained", "checkpoint",
    "gloo:all_reduce", "nccl:send 0->1", "recv", "barrier", "h", "g", "h-7.5", "g-8.6", "h:29500",
    "[::1]:0", "127.0.0.1:99999999999", "rank", "launcher", "D", "R", "T", "tp", "dp", "MainThread",
    "/job/train.py", "¹²", "\x1b[2J\x00\u202e", "<script>|`*_", "x" * 300, "9" * 5000, "\udfff",
    "Timed out waiting for clients", "Connection reset by peer", "megatron", "store", "stack", "#1",
)  # fmt: skip
STREAMS = tuple(
    FileHeader(
        stream=process_key(host, pid, ticks), host=host, pid=pid, start_ticks=ticks, boot_id="b",
        wall_offset_ns=offset, salt=pid,
    )
    for host, pid, ticks, offset in (("h", 7, 5, 0), ("g", 8, 6, 1 << 62), ("h", 9, 7, -(1 << 62)))
)  # fmt: skip
_EVENTS = tuple(kind for kind in ev.Event.__subclasses__() if kind is not ev.UnknownEvent)


def any_event(random: Random) -> bytes:
    """The bytes of an event whose fields are of their types, and anything within them."""
    kind = random.choice(_EVENTS)
    fields = _fields(kind, random, 0)
    return msgspec.msgpack.encode({"kind": kind.__struct_config__.tag, **fields})


def value_of(kind: Any, random: Random, depth: int = 0) -> Any:
    """Something of a type, as it stands in msgpack or JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return value_of(arguments[0], random, depth)
    if origin is Literal:
        return random.choice(arguments)
    if origin in (typing.Union, UnionType):
        return value_of(random.choice(arguments), random, depth)
    if origin in (tuple, list):
        return _listed(arguments, random, depth)
    if origin is dict:
        return {
            value_of(arguments[0], random, depth): value_of(arguments[1], random, depth)
            for _ in range(random.choice((0, 1, 3)))
        }
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = _fields(kind, random, depth + 1)
        return list(fields.values()) if kind.__struct_config__.array_like else fields
    return _plain(kind, random)


def _plain(kind: Any, random: Random) -> Any:
    if kind is bool:
        return random.random() < 0.5
    if kind is int:
        return random.choice(INTEGERS)
    if kind is float:
        return random.choice(FLOATS)
    if kind is str:
        return random.choice(WORDS).encode("utf-8", "replace").decode()
    return None


def _listed(arguments: tuple[Any, ...], random: Random, depth: int) -> list[Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        count = random.choice((0, 1, 2, 4)) if depth < 3 else 0
        return [value_of(arguments[0], random, depth) for _ in range(count)]
    return [value_of(one, random, depth) for one in arguments]


def _fields(kind: type[msgspec.Struct], random: Random, depth: int) -> dict[str, Any]:
    hints = _hints(kind)
    wanted = {
        field.name
        for field in msgspec.structs.fields(kind)
        if field.required or kind.__struct_config__.array_like or random.random() < 0.6
    }
    return {
        name: value_of(hints[name], random, depth)
        for name in kind.__struct_fields__
        if name in wanted
    }


_known: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _known:
        _known[kind] = typing.get_type_hints(kind, include_extras=True)
    return _known[kind]


def bent(event: ev.Event, random: Random, times: int) -> bytes:
    """An event of which some fields are replaced by others of their types."""
    plain = msgspec.msgpack.decode(ev.encode_event(event))
    for _ in range(times):
        _bend(plain, type(event), random)
    return msgspec.msgpack.encode(plain)


def _bend(plain: dict[str, Any], kind: type[msgspec.Struct], random: Random) -> None:
    hints = _hints(kind)
    name = random.choice([name for name in kind.__struct_fields__ if name in hints])
    inner = plain.get(name)
    within = [one for one in _structs_in(hints[name]) if not one.__struct_config__.array_like]
    if within and inner and random.random() < 0.7:
        target = random.choice(inner) if isinstance(inner, list) else inner
        if isinstance(target, dict) and (kind_of_target := random.choice(within)):
            return _bend(target, kind_of_target, random)
    plain[name] = value_of(hints[name], random, 1)
    return None


def _structs_in(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for one in typing.get_args(kind) for found in _structs_in(one)]


def a_job(random: Random) -> RecordedJob:
    """A job of four ranks in which something of everything happens."""
    job = RecordedJob(4, single_node=random.random() < 0.5)
    if random.random() < 0.3:
        job.hosts[3] = "node2"
    come = [rank for rank in range(4) if random.random() < 0.8]
    job.launch()
    job.enter(*come, at=1.0)
    job.probe(random.choice(("store", "refused", "silent")), 2.0, arrived=tuple(come))
    if random.random() < 0.7:
        job.form(*come, at=3.0)
        for rank in come:
            _work(job, rank, random)
    for rank in come:
        _end(job, rank, random)
    job.tick(random.choice((20.0, 2000.0)))
    return job


def _work(job: RecordedJob, rank: int, random: Random) -> None:
    job.mesh(rank, 4.0, {"dp": 2, "tp": 2})
    job.call_group(rank, 5.0, 1, (0, 1), stays=random.random() < 0.2)
    job.hold(rank, "1", (rank // 2 * 2, rank // 2 * 2 + 1), desc="tp", at=5.5)
    held = ev.HeldGroup(
        role="tp", pg_name="1", axis="tp", members=(rank // 2 * 2, rank // 2 * 2 + 1)
    )
    job.say(
        rank,
        6.0,
        ev.LayoutHeld(framework="megatron", label="tp 2", sizes={"tp": 2}, groups=(held,)),
    )
    job.say(rank, 6.5, ev.SiteSeen(number=1, site=ev.Site(file="/job/train.py", line=3)))
    seq = random.choice((4, 5))
    entries = tuple(
        ev.Collective(
            pg_name="0", seq=n, op="gloo:all_reduce", input_sizes=((8, 4),), created_wall_ns=n
        )
        for n in range(1, seq + 1)
    )
    job.say(rank, 7.0, ev.CollectivesDumped.of("asked", entries))
    called = tuple(
        job.operation(rank, random.choice(("allreduce", "broadcast")), n, at=7.0 + n, site=1)
        for n in range(1, seq + 1)
    )
    p2p = job.peer(
        rank, random.choice(("send", "recv")), (rank + 1) % 4, at=13.0, posted=1, number=9
    )
    peers = (ev.PeerProgress(pg_name="0", op="send", peer=1, posted=2),)
    loads = (LoadProgress(step=50, parameters=3, parameters_total=9, bytes=10, bytes_total=30),)
    job.begin(rank, 50, "from_pretrained", 7.5, label="/models/x", total=4)
    job.say(rank, 7.6, ev.StepProgressed(step=50, done=2, total=4))
    job.pulse(
        rank, at=15.0, groups={"0": (seq, seq - 1, 12.0), "1": (1, 1, 9.0)}, peers=peers, loads=loads,
        operations=(*called, *([p2p] if random.random() < 0.3 else [])),
    )  # fmt: skip
    _join_an_extra_group(job, rank)


def _join_an_extra_group(job: RecordedJob, rank: int) -> None:
    joined = ev.ExtraGroupJoined(
        number=1, step=60, endpoint="h:1", name="w", group_rank=rank, size=5
    )
    job.begin(rank, 60, "init_custom_process_group", 14.0)
    job.say(rank, 14.0, joined)


def _end(job: RecordedJob, rank: int, random: Random) -> None:
    job.stack(rank, 15.0, random.choice((READING, WAITING)))
    job.sample(rank, 15.0, random.choice("RSDTZ"), children=(5, 6), cpu_s=1.0)
    how = random.random()
    if how < 0.2:
        job.fail(rank, 16.0, "RuntimeError", random.choice(WORDS[-8:]))
    if how < 0.3:
        job.exit(rank, 16.5, code=1)
    device = ev.Device(index=0, name="H100", memory_total=80, memory_used=3, xid=(79,))
    job.see(15.5, ev.DevicesSampled(host=job.host(rank), devices=(device,)), job.host(rank))
    job.see(15.6, ev.HostSampled(host=job.host(rank), memory_total=9, load=1.0), job.host(rank))
    link = ev.LinkChanged(
        host=job.host(rank), peer="node9", linked=random.random() < 0.5, silent_s=3.0
    )
    job.see(15.7, link, job.host(rank))


Framed = tuple[FileHeader, int, int, bytes]
"""A stream, the place in it, a time, and the bytes of an event."""


def hostile_run(random: Random) -> Iterator[Framed]:
    """A run, mostly a real job's, in which some or all events say what cannot be."""
    if random.random() < 0.2:
        yield from _senseless(random)
        return
    job, rate = a_job(random), random.choice((0.0, 0.02, 0.05, 0.2))
    for stream in random.sample(sorted(job.records), len(job.records)):
        header = job.headers[stream]
        for seq, time_ns, event in job.records[stream]:
            if random.random() < rate:
                moment = random.choice((time_ns, time_ns, time_ns, 0, (1 << 63) - 1))
                yield header, seq, moment, bent(event, random, random.choice((1, 2, 3)))
            else:
                yield header, seq, time_ns, ev.encode_event(event)
            if random.random() < rate / 5:
                yield header, 1000 + seq, time_ns, any_event(random)


def _senseless(random: Random) -> Iterator[Framed]:
    seqs = dict.fromkeys(STREAMS, 0)
    for _ in range(random.choice((5, 20, 60))):
        header = random.choice(STREAMS)
        seqs[header] += random.choice((1, 1, 1, 2))
        moment = random.choice((0, 10**9, 10**12, (1 << 63) - 1))
        yield header, seqs[header], moment, any_event(random)
