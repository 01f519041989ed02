"""Lines of source, torchelastic's error files, and connections that get no answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.agent.control import ControlSocket, own_stacks
from distwatch.observer.looks.stack_looks import take_from_inside
from distwatch.probes.connections import examine_connections
from distwatch.probes.error_files import error_file_of, read_error_file
from distwatch.probes.sources import read_lines
from tests.support.without_torch import needs_torch


def test_lines_are_read_as_they_stand_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(
        "def step():\n    dist.all_reduce(loss)\n    login(token='hf_0123456789abcdefABCD')\n"
    )
    found = read_lines(
        os.getpid(), [(str(file), 2), (str(file), 3), (str(file), 99), ("<stdin>", 1)]
    )
    assert [(line.line, line.text) for line in found] == [
        (2, "dist.all_reduce(loss)"),
        (3, "login(token=[redacted])"),
    ]


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_not_opened_for_its_source(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    place = "/dev/zero" if kind == "device" else str(path)
    assert read_lines(os.getpid(), [(place, 1)]) == []


@needs_torch
def test_the_error_file_that_torchelastic_writes(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    script = (
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "@record\ndef main():\n    raise ValueError('bad batch; password=hunter2')\nmain()"
    )
    env = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(path), "DISTWATCH": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    assert done.returncode == 1
    left = read_error_file("key", str(path))
    assert left is not None
    assert left.type_name == "ValueError"
    assert left.message.startswith("bad batch")
    assert "hunter2" not in str(left)
    assert any("in main" in line for line in left.traceback)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"message": 3}', b"\xff\xfe"])
def test_an_error_file_of_something_else_tells_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_bytes(content)
    assert read_error_file("key", str(path)) is None
    assert read_error_file("key", str(tmp_path / "nowhere")) is None


def test_an_error_file_with_a_bare_message(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"message": "the worker got SIGBUS"}))
    left = read_error_file("key", str(path))
    assert left is not None
    assert (left.type_name, left.message) == ("Error", "the worker got SIGBUS")


def test_the_variable_is_read_from_a_process(tmp_path: Path) -> None:
    env = {**os.environ, "TORCHELASTIC_ERROR_FILE": "/tmp/e.json"}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"x\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"x\n"
        assert error_file_of(child.pid) == "/tmp/e.json"


def test_connections_of_this_host_alone_are_never_stuck() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()[:2]) as one,
        server.accept()[0],
    ):
        one.sendall(b"unread")
        seen = examine_connections("key", os.getpid())
    assert seen is not None
    assert seen.stuck == ()
    assert not any(address.startswith("127.") for address in seen.addresses)
    assert examine_connections("key", 999_999_999) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_both_ends_of_a_connection_and_what_is_unread(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as one,
        server.accept()[0] as other,
    ):
        one.sendall(b"unread")
        one.shutdown(socket.SHUT_WR)
        other.recv(7, socket.MSG_PEEK | socket.MSG_WAITALL)  # all has arrived, the end included
        seen = examine_connections("key", os.getpid(), whole=True)
        port = one.getsockname()[1]
    assert seen is not None
    both = [c for c in seen.held if any(end.endswith(f":{port}") for end in (c.local, c.peer))]
    mine, theirs = sorted(both, key=lambda c: c.unread_bytes > 1)
    assert (mine.local, mine.peer) == (theirs.peer, theirs.local)
    assert theirs.state == "close_wait"
    assert theirs.unread_bytes >= len(b"unread")
    assert (seen.addresses, seen.stuck, seen.unlisted) == ((), (), 0)


async def test_stacks_come_from_inside_where_the_kernel_forbids_a_look(tmp_path: Path) -> None:
    import asyncio

    path = str(tmp_path / "agent.sock")
    control = ControlSocket(path, lambda reason: None)
    try:
        served = asyncio.get_running_loop().run_in_executor(None, control.serve, 10.0)
        taken = await take_from_inside("key", path)
        assert await served
    finally:
        control.close()
    assert taken is not None
    assert taken.source == "agent"
    main = next(thread for thread in taken.threads if thread.name == "MainThread")
    assert any(frame.function == "run_forever" for frame in main.frames)
    assert await take_from_inside("key", path) is None


def test_own_stacks_are_outermost_first() -> None:
    main = next(thread for thread in own_stacks() if thread.name == "MainThread")
    assert main.frames[-1].function == "own_stacks"
    assert main.os_thread_id == os.getpid()
