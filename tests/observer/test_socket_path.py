"""A deep folder of runs: no path of a socket in it fits the system's limit, and everything works."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from distwatch.agent.control import ControlSocket
from distwatch.observer.daemon import Observer
from distwatch.observer.serving import ViewerServer
from distwatch.observer.targets.live import LiveRun
from distwatch.observer_socket import ask_observer
from distwatch.runfolder import RunFolder
from distwatch.socket_path import within_limit


@pytest.fixture
def deep(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / ("deep-" * 24) / "run"))
    folder.create()
    with (
        socket.socket(socket.AF_UNIX) as attempt,
        pytest.raises(OSError, match="too long"),
    ):
        attempt.bind(folder.socket)
    return folder


async def test_viewers_and_ranks_reach_an_observer_there(deep: RunFolder) -> None:
    observer = Observer(deep)
    server = ViewerServer(observer)
    await server.start()
    viewer = LiveRun(deep)
    try:
        await viewer.open()
        assert observer.viewers == 1
        request = {"want": "verdict"}
        assert await asyncio.to_thread(ask_observer, deep, request, 10.0)
    finally:
        await viewer.close()
        await server.close()
        await observer.finish("the test ends")
    assert not Path(deep.socket).exists()


def test_an_agent_is_asked_there(deep: RunFolder) -> None:
    asked: list[str] = []
    path = f"{deep.path}/7.sock"
    control = ControlSocket(path, asked.append)
    answering = threading.Thread(target=lambda: [control.serve(60.0) for _ in range(1)])
    answering.start()
    with socket.socket(socket.AF_UNIX) as connection, within_limit(path) as short:
        connection.settimeout(60)
        connection.connect(short)
        connection.sendall(b"dump\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    answering.join()
    control.close()
    assert asked
    assert not Path(path).exists()


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / ("long-" * 24)
    link.symlink_to(real)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"), within_limit(f"{link}/x.sock"):
        pass
