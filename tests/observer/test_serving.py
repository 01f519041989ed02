"""Viewers get the state and what changes it; whoever misbehaves loses only its own line."""

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
from distwatch.observer.journals.checkpoint import state_form
from distwatch.observer.link.messages import FRAME_LIMIT, Batch, CaughtUp, Frame
from distwatch.observer.serving import ViewerServer
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.observer.viewers import differences, pictures
from distwatch.observer.viewers.messages import (
    Answer,
    PackedBatch,
    PicturePart,
    Request,
    pack,
    read_frame,
    unpack,
)
from distwatch.observer_socket import framed
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader
from distwatch.state.model import RunState
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


@pytest_asyncio.fixture
async def viewer(observer: Observer) -> AsyncIterator[LiveRun]:
    run = LiveRun(observer.folder)
    await run.open()
    yield run
    await run.close()


def request(want: str, form: str = "") -> bytes:
    body = msgspec.msgpack.encode(Request(want=want, form=form))
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
    monkeypatch.setattr(serving, "DIFFERENCES_MOST", 50_000)
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
    reader.feed_data(framed(Answer(text="done")))
    assert unpack(await read_frame(reader)) == Answer(text="done")


def test_a_batch_is_no_longer_than_any_message() -> None:
    header = FileHeader(
        stream="h-1.1", host="h", pid=1, start_ticks=1, boot_id="b", wall_offset_ns=0, salt=1
    )
    fits = Batch(after=0, headers=(header,), frames=(Frame(0, 1, 1, bytes(FRAME_LIMIT // 2)),))
    assert unpack(msgspec.msgpack.encode(pack(fits))) == fits
    longer = Batch(after=0, headers=(header,), frames=(Frame(0, 1, 1, bytes(FRAME_LIMIT)),))
    with pytest.raises(ValueError, match="more than"):
        unpack(msgspec.msgpack.encode(pack(longer)))
    with pytest.raises(ValueError, match="inflated"):
        unpack(msgspec.msgpack.encode(PackedBatch(content=b"noise")))


async def follow(viewer: LiveRun, observer: Observer) -> None:
    """Until the viewer has the newest record of each stream."""
    while viewer.state.streams != observer.state.streams:
        await viewer.wait(5)
        await viewer.poll()


async def test_a_viewer_has_the_observers_state(observer: Observer, start_rank: Start) -> None:
    first = start_rank(0)
    first.do("steps 3")
    observer.tick()
    viewer = LiveRun(observer.folder)
    await viewer.open()
    assert viewer.state == observer.state, "the picture"
    second = start_rank(1)
    second.do("begin load 5")
    for rank, beat in ((first, 2), (second, 3), (first, 4)):
        rank.do("steps 2")
        rank.do(f"beat {beat} 1")
        observer.tick()
    observer.recording.record(
        ev.NotObserved(host=observer.recording.header.host, what="w", why="y")
    )
    await follow(viewer, observer)
    assert viewer.state == observer.state, "what has changed since"
    await viewer.close()


async def test_one_picture_is_for_all_who_come_within_a_while(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[RunState] = []
    encode = pictures.encode_state

    def counted(state: RunState) -> bytes:
        taken.append(state)
        return encode(state)

    monkeypatch.setattr(pictures, "encode_state", counted)
    rank = start_rank()
    rank.do("steps 3")
    observer.tick()
    viewers = [LiveRun(observer.folder) for _ in range(3)]
    for viewer in viewers:
        await viewer.open()
        rank.do("steps 1")
        observer.tick()
    for viewer in viewers:
        await follow(viewer, observer)
        assert viewer.state == observer.state
        await viewer.close()
    assert len(taken) == 1


async def test_a_viewer_that_was_behind_gets_another_picture(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "DIFFERENCES_MOST", 4000)
    rank = start_rank()
    observer.tick()
    viewer = LiveRun(observer.folder)
    await viewer.open()
    picture = viewer.state
    # At one go, before the sender has its turn: far more than may wait.
    rank.do("steps 30 " + "x" * 500)
    observer.tick()
    await follow(viewer, observer)
    assert viewer.state == observer.state
    assert viewer.state is not picture
    assert observer.viewers == 1
    await viewer.close()


async def told(observer: Observer, form: str) -> list[object]:
    """What a viewer of that form is told until it knows all of the past."""
    reader, writer = await asyncio.open_unix_connection(observer.folder.socket)
    writer.write(request("events", form))
    messages: list[object] = []
    while not messages or not isinstance(messages[-1], CaughtUp):
        messages.append(unpack(await read_frame(reader)))
    writer.close()
    return messages


async def test_a_viewer_of_another_version_gets_the_records(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 3")
    observer.tick()
    *batches, _ = await told(observer, "distwatch state 0")
    entries = [
        entry
        for batch in batches
        if isinstance(batch, Batch)
        for entry in differences.entries_of(batch)
    ]
    newest = observer.state.streams[rank.key]
    seqs = [entry.seq for entry in entries if entry.header.stream == rank.key and entry.seq]
    assert seqs == list(range(1, newest + 1))
    assert {type(one) for one in await told(observer, state_form())} == {PicturePart, CaughtUp}


async def test_a_state_that_cannot_be_encoded_is_told_by_its_records(
    observer: Observer, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 3")
    observer.tick()
    host = observer.recording.header.host
    observer.state.hosts[host].not_observed["\udcff"] = "its name is not UTF-8"
    viewer = LiveRun(observer.folder)
    await viewer.open()
    assert len(viewer.state.processes[rank.key].steps) == 3
    await viewer.close()


async def test_what_is_no_picture_is_not_shown(folder: RunFolder) -> None:
    viewer = LiveRun(folder)
    before = viewer.state
    viewer._take(msgspec.msgpack.encode(PicturePart(content=b"distwatch state", last=True)))
    with pytest.raises(SourceLost, match="is no state"):
        await viewer.poll()
    assert viewer.state is before
