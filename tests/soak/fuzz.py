"""Hostile bytes into every decoder: what it cannot read it refuses in the way that it declares.

Half of the inputs are real ones with some bytes changed, the others are made of the words and
numbers that most often break readers. One input may take a second, and all of them together no more
memory than a decoder's own bounds allow.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple

import msgspec

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.assembly import streams_of_evidence
from distwatch.dumps.evidence import read_evidence
from distwatch.dumps.recorder import read_recorder_dump
from distwatch.errors import DistwatchError
from distwatch.observer.link.messages import decode_from_leaf, decode_from_root
from distwatch.observer.link.root_address import parse_place
from distwatch.observer.viewers.messages import unpack
from distwatch.preflight.plan_file import read_plans
from distwatch.probes.stacks import parse_py_spy
from distwatch.redaction import redact_text
from distwatch.settings import read_settings
from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import (
    HEADER_SIZE,
    FileHeader,
    Record,
    decode_header,
    encode_frame,
    encode_header,
    scan,
)
from distwatch.state.identity import identify
from distwatch.state.model import RunState
from distwatch.state.pulse import FILE_SIZE, decode_operations, decode_page, encode_page
from distwatch.state.reducer import reduce
from distwatch.tui.filters import parse_filter
from distwatch.views.event_text import event_text
from distwatch.visible_text import visible
from tests.soak.command import main
from tests.support.hostile import STREAMS, WORDS, any_event

SAMPLES = Path(__file__).resolve().parents[1] / "dumps" / "data"
ONE_S = 2.0
MEMORY = 1 << 30
_PIECES = (
    b"", b"\0", b"\xff" * 8, b"\x80", b"{", b"[" * 200, b'{"', b"]" * 9, b"\\u", b"\xed\xa0\x80",
    b"9" * 400, b"-1", b"1e999", b"NaN", b"\x1b[2J", b"\r\n" * 3, b"\x80\x04", b"r\xff\xff\xff\x7f",
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
)  # fmt: skip


class Decoder(NamedTuple):
    """A reader of foreign bytes, real inputs of its own, and what it raises of what it cannot read."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    raises: tuple[type[Exception], ...] = ()


def run(inputs: int, seed: int = 0) -> str:
    """Figures of that many inputs, spread over all decoders.

    Raises:
        AssertionError: a decoder raised what it does not declare, or took too long or too much.
    """
    random = Random(seed)
    decoders = _decoders(random)
    before, begin = _peak_bytes(), time.monotonic()
    previous = signal.signal(signal.SIGALRM, _too_slow)
    try:
        for number in range(inputs):
            name = list(decoders)[number % len(decoders)]
            decoder = decoders[name]
            _try(name, decoder, _input(decoder.seeds, random))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    grown = _peak_bytes() - before
    assert grown < MEMORY, f"{grown >> 20} MiB more than before"
    spent = time.monotonic() - begin
    return (
        f"{inputs} inputs to {len(decoders)} decoders, 0 undeclared exceptions, "
        f"+{grown >> 20} MiB at most, {spent:.0f} s"
    )


def _try(name: str, decoder: Decoder, content: bytes) -> None:
    signal.setitimer(signal.ITIMER_REAL, ONE_S)
    try:
        decoder.read(content)
    except decoder.raises:
        pass
    except Exception as error:
        shown = content[:200]
        raise AssertionError(f"{name} raised {error!r} of {shown!r} ({len(content)} B)") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _TooSlowError(Exception):
    """One input took longer than ONE_S."""


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlowError(f"over {ONE_S} s")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _input(seeds: tuple[bytes, ...], random: Random) -> bytes:
    if random.random() < 0.1:
        return b"".join(random.choice(_PIECES) for _ in range(random.randrange(8)))
    content = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        bend(content, random)
    return bytes(content)


def bend(content: bytearray, random: Random) -> None:
    """Changes some bytes in place: cut, doubled, of another value, or by what breaks readers."""
    at = random.randrange(len(content) + 1)
    match random.randrange(6):
        case 0:
            del content[at:]
        case 1:
            content[at:at] = random.choice(_PIECES)
        case 2:
            content[at : at + 1] = bytes([random.randrange(256)])
        case 3:
            content[at : at + 4] = struct.pack("<I", random.choice((0, 1, 1 << 31, (1 << 32) - 1)))
        case 4:
            content[at:at] = content[at : at + random.randrange(64)] * random.randrange(4)
        case _:
            word = random.choice(WORDS).encode("utf-8", "surrogatepass")
            content[at : at + len(word)] = word


def _decoders(random: Random) -> dict[str, Decoder]:
    text = (b"run 8 ranks at 127.0.0.1:29500", b"rank:0-3 state:waiting", b"")
    events = tuple(any_event(random) for _ in range(400))
    return {
        "events": Decoder(_fold_event, events),
        "frames": Decoder(_scan, (_journal(events[:20]),)),
        "header": Decoder(decode_header, (_journal(()),)),
        "pulse": Decoder(decode_page, (_pulse(),)),
        "operations": Decoder(decode_operations, (bytes(FILE_SIZE),)),
        "recorder": Decoder(read_recorder_dump, tuple(_recorder_dumps()), (DistwatchError,)),
        "import": Decoder(_import, _samples()),
        "py-spy": Decoder(_py_spy, (_PY_SPY,), (DistwatchError,)),
        "leaf": Decoder(decode_from_leaf, _messages(), (msgspec.DecodeError, UnicodeDecodeError)),
        "root": Decoder(decode_from_root, _messages(), (msgspec.DecodeError, UnicodeDecodeError)),
        "viewer": Decoder(unpack, _messages(), (msgspec.DecodeError, UnicodeDecodeError)),
        "environment": Decoder(_environment, text),
        "address": Decoder(lambda raw: parse_place(_text(raw)), text, (DistwatchError,)),
        "filter": Decoder(lambda raw: parse_filter(_text(raw)), text, (DistwatchError, ValueError)),
        "plan": Decoder(lambda raw: read_plans(_text(raw)), (_PLAN,), (DistwatchError,)),
        "redaction": Decoder(lambda raw: redact_text(_text(raw)), (*text, b"token=abc x-0-1-")),
        "visible text": Decoder(lambda raw: visible(_text(raw)), text),
    }


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _fold_event(raw: bytes) -> None:
    event = decode_event(raw)
    if event is not None:
        reduce(RunState(), STREAMS[0], 1, 1, event)
        event_text(event)
        encode_event(event)


def _scan(raw: bytes) -> None:
    header = decode_header(raw)
    for _ in scan(raw, header.salt if header else 7):
        pass


def _samples() -> tuple[bytes, ...]:
    """Logs, stacks, RAS and kernel messages, as the tests of `import` have them."""
    found = sorted(path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix != ".json")
    return tuple(path.read_bytes()[:20_000] for path in found)


def _import(raw: bytes) -> None:
    """The whole way of `distwatch import`, to the verdict."""
    with tempfile.NamedTemporaryFile(prefix="dw-") as file:
        file.write(raw)
        file.flush()
        evidence = read_evidence([file.name])
    state = RunState()
    for stream in streams_of_evidence(evidence):
        for seq, (time_ns, event) in enumerate(stream.events, 1):
            reduce(state, stream.header, seq, time_ns, event)
    diagnose(state)


def _py_spy(raw: bytes) -> object:
    return parse_py_spy(_text(raw))


def _environment(raw: bytes) -> None:
    said = _text(raw)
    names = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_PORT",
        "SLURM_JOB_ID",
        "OMPI_COMM_WORLD_RANK",
    )
    identify(dict.fromkeys(names, said))
    ours = (
        "DISTWATCH_DEADLINES",
        "DISTWATCH_INTEGRATIONS",
        "DISTWATCH_ON_HANG",
        "DISTWATCH_OBSERVER",
    )
    read_settings(dict.fromkeys(ours, said))


def _journal(payloads: tuple[bytes, ...]) -> bytes:
    header = FileHeader(
        stream="h-7.5", host="h", pid=7, start_ticks=5, boot_id="b", wall_offset_ns=0, salt=7
    )
    frames = (
        encode_frame(7, Record(seq=number, time_ns=number, payload=payload))
        for number, payload in enumerate(payloads, 1)
    )
    return encode_header(header)[:HEADER_SIZE] + b"".join(frames)


def _pulse() -> bytes:
    page = encode_page(ev.Pulse(beat=1, beat_ns=1, groups=(ev.GroupProgress(pg_name="0"),)))
    assert page is not None
    return struct.pack("<Q", 2) + page


def _recorder_dumps() -> Iterator[bytes]:
    entry = {
        "record_id": 1, "pg_id": 0, "process_group": ("0", "default_pg"), "collective_seq_id": 3,
        "profiling_name": "nccl:all_reduce", "time_created_ns": 5, "input_sizes": [[4]],
        "input_dtypes": ["Float"], "output_sizes": [[4]], "state": "scheduled", "retired": False,
        "is_p2p": False, "frames": [{"name": "f", "filename": "t.py", "line": 3}],
    }  # fmt: skip
    dump = {
        "version": "2.9", "entries": [entry] * 3,
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
        "pg_status": {"0": {"last_enqueued_collective": 3, "last_completed_collective": 2}},
    }  # fmt: skip
    for protocol in (0, 2, 4):
        yield pickle.dumps(dump, protocol)
    yield json.dumps(dump).encode()


def _messages() -> tuple[bytes, ...]:
    header = msgspec.to_builtins(STREAMS[0])
    frames = [header, 1, 1, b"\x81\xa4kind\xa6ticked"]
    return tuple(
        msgspec.msgpack.encode(said)
        for said in ([frames], {"type": "frames", "frames": [frames]}, {"type": "hello"}, ["x"], [])
    )


_PY_SPY = json.dumps(
    [
        {
            "pid": 7, "thread_id": 1, "thread_name": "MainThread", "os_thread_id": 7, "active": True,
            "owns_gil": False,
            "frames": [{"name": "f", "filename": "t.py", "module": None, "short_filename": "t.py", "line": 3}],
        }
    ]
).encode()  # fmt: skip
_PLAN = b"""world_size: 16
tensor: 2
pipeline: 4
order: [tp, dp, pp]
deadlines: {store: 30}
model: /nowhere/config.json
"""


if __name__ == "__main__":
    main("Fuzzed inputs", run, 1_000_000)
