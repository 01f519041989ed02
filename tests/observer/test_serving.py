"""Viewers get everything that happened and happens; whoever misbehaves loses only its own line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from distwatch.observer import serving
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry
from distwatch.observer.serving import (
    FRAME_LIMIT,
    Request,
    ViewerServer,
    from_wire,
    read_frame,
    to_wire,
    unpack,
)
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.observer_socket import framed
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


@pytest_asyncio.fixture
async def viewer(observer: Observer) -> AsyncIterator[LiveRun]:
    run = LiveRun(observer.folder)
    await run.open()
    yield run
    await run.close()


def request(want: str) -> bytes:
    body = msgspec.msgpack.encode(Request(want=want))
    return len(body).to_bytes(4, "little") + body


async def until_closed(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(1 << 16):
            pass
    return True


async def test_a_viewer_gets_the_past_and_the_present(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 3")
    observer.tick()
    viewer = LiveRun(observer.folder)
    await viewer.open()
    assert len(viewer.state.processes[rank.key].steps) == 3
    rank.do("begin load 5")
    rank.do("beat 2 1")
    observer.tick()
    process = viewer.state.processes[rank.key]
    while not process.open_steps() or process.outside.pulse is None:
        await viewer.wait(5)
        await viewer.poll()
    assert [step.name for step in process.open_steps()] == ["load"]
    assert process.outside.pulse.groups[0].enqueued == 2
    assert process.gaps == 0
    await viewer.close()


async def test_dump_writes_an_incident_and_says_where(
    observer: Observer, viewer: LiveRun, start_rank: Start
) -> None:
    start_rank()
    observer.tick()
    told = await viewer.dump()
    assert told == f"incident written to {observer.folder.incidents}/1"
    assert Path(observer.folder.incidents, "1", "report.json").exists()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        (FRAME_LIMIT + 1).to_bytes(4, "little"),
        (5).to_bytes(4, "little") + b"hello",
        request("everything"),
        b"\x01",
    ],
    ids=["noise", "too long", "no msgpack", "no such request", "torn"],
)
async def test_garbage_closes_its_own_connection_only(
    observer: Observer, viewer: LiveRun, start_rank: Start, garbage: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(observer.folder.socket)
    writer.write(garbage)
    writer.write_eof()
    assert await until_closed(reader)
    writer.close()
    assert observer.viewers == 1
    rank = start_rank()
    observer.tick()
    while rank.key not in viewer.state.processes:
        await viewer.wait(5)
        await viewer.poll()


async def test_who_only_connects_is_no_viewer(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FIRST_WITHIN_S", 0.01)
    reader, writer = await asyncio.open_unix_connection(observer.folder.socket)
    assert await until_closed(reader)
    writer.close()
    assert observer.viewers == 0


async def test_a_viewer_that_does_not_read_is_let_go(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "QUEUE_LIMIT", 50_000)
    raw = socket.socket(socket.AF_UNIX)
    raw.setblocking(False)
    raw.connect(observer.folder.socket)
    raw.send(request("events"))
    while not observer.sinks:
        await asyncio.sleep(0)
    rank = start_rank()
    # More than the socket's buffers and the queue together can hold.
    for _ in range(200):
        if observer.viewers == 0:
            break
        rank.do("steps 100 " + "x" * 500)
        observer.tick()
        await asyncio.sleep(0)
    while observer.viewers:
        await asyncio.sleep(0)
    assert observer.sinks == []
    raw.close()


async def test_the_end_of_the_observer_is_told_once(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    observer = Observer(folder)
    server = ViewerServer(observer)
    await server.start()
    observer.tick()
    viewer = LiveRun(folder)
    await viewer.open()
    await server.close()
    await observer.finish("over")

    async def poll_on() -> None:
        while True:
            await viewer.wait(5)
            await viewer.poll()

    with pytest.raises(SourceLost, match="the observer has ended"):
        await poll_on()
    assert viewer.live is False
    assert rank.key in viewer.state.processes
    assert await viewer.poll() is False
    assert not Path(folder.socket).exists()
    await viewer.close()


FOREIGN = """
import os, socket, sys
os.setuid(65534)
raw = socket.socket(socket.AF_UNIX)
raw.connect(sys.argv[1])
print("connected", flush=True)
raw.settimeout(30)
try:
    raw.sendall(bytes.fromhex(sys.argv[2]))
    print(raw.recv(10))
except (ConnectionResetError, BrokenPipeError):
    print(b"")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_gets_nothing() -> None:
    # The folder keeps others out: here its doors stand open, and the peer's uid still decides.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        folder = RunFolder(f"{root}/runs/r")
        folder.create()
        observer = Observer(folder)
        server = ViewerServer(observer)
        await server.start()
        for place in (root, f"{root}/runs", folder.path):
            os.chmod(place, 0o711)
        os.chmod(folder.socket, 0o777)
        command = [sys.executable, "-c", FOREIGN, folder.socket, request("events").hex()]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await child.communicate()
        sinks = list(observer.sinks)
        await server.close()
        await observer.finish("over")
    assert out == b"connected\nb''\n"
    assert sinks == []


def test_the_socket_is_for_its_owner_alone(folder: RunFolder) -> None:
    async def mode() -> int:
        observer = Observer(folder)
        server = ViewerServer(observer)
        await server.start()
        try:
            return os.stat(folder.socket).st_mode & 0o777
        finally:
            await server.close()
            await observer.finish("over")

    assert asyncio.run(mode()) == 0o600


async def test_frames_are_read_as_they_were_packed() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(framed([serving.Wire(None, 0, 0, b"", "done")]))
    wires = unpack(await read_frame(reader))
    assert [wire.answer for wire in wires] == ["done"]


async def test_a_viewer_that_was_behind_has_all_from_the_journals(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "QUEUE_LIMIT", 4000)
    rank = start_rank()
    observer.tick()
    reader, writer = await asyncio.open_unix_connection(observer.folder.socket)
    writer.write(request("events"))
    seen: dict[int, int] = {}

    async def read_until(seq: int) -> None:
        while seq not in seen:
            for wire in unpack(await read_frame(reader)):
                if wire.header is not None and wire.header.stream == rank.key and wire.seq:
                    seen[wire.seq] = seen.get(wire.seq, 0) + 1

    await read_until(1)
    # At one go, before the sender has its turn: far more than may wait.
    rank.do("steps 30 " + "x" * 500)
    observer.tick()
    newest = observer.state.streams[rank.key]
    await read_until(newest)
    assert seen == dict.fromkeys(range(1, newest + 1), 1)
    assert observer.viewers == 1
    writer.close()


def test_what_came_as_bytes_goes_on_as_those_bytes() -> None:
    header = FileHeader(
        stream="h-1.1", host="h", pid=1, start_ticks=1, boot_id="b", wall_offset_ns=0, salt=1
    )
    event = ev.StepEnded(step=3)
    came = encode_event(event)
    passed = to_wire(Entry(header, 5, 9, event, came))
    assert passed.payload is came
    own = to_wire(Entry(header, 5, 9, event))
    assert from_wire(own) == from_wire(passed) == Entry(header, 5, 9, event)
