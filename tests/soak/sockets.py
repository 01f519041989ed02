"""Hostile bytes at everything that listens: whoever is known is served as before.

The observer's socket, the link's root, `distwatch serve` and an agent's control socket, each in the
real thing. A stranger sends pieces of real talk, cut and bent, and hangs up at a random moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import msgspec

from distwatch.agent.control import ControlSocket
from distwatch.observer.daemon import Observer
from distwatch.observer.link import messages as say
from distwatch.observer.link.handshake import connect
from distwatch.observer.link.root import Root
from distwatch.observer.link.root_address import RootAddress
from distwatch.observer.serving import ViewerServer
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.viewers.messages import Request
from distwatch.observer_socket import framed
from distwatch.runfolder import RunFolder
from distwatch.web.pages import Pages
from distwatch.web.server import WebServer
from tests.soak.command import main
from tests.soak.folders import run_folder
from tests.soak.fuzz import bend
from tests.support.ranks import free_port

TOKEN = b"0123456789abcdef"
ANSWER_S = 20.0
EVERY = 200
"""Strangers between two looks at whether the known one is served."""
Address = str | tuple[str, int]


def run(connections: int, seed: int = 0) -> str:
    """Figures of that many hostile connections, spread over all that listens.

    Raises:
        AssertionError: whoever is known was not served any more.
    """
    begin = time.monotonic()
    logging.disable()  # who is turned away is logged, each time
    with run_folder() as folder:
        asyncio.run(_attack_observer(folder, connections // 2, Random(seed)))
        _attack_control(folder, connections // 4, Random(seed + 1))
        _attack_web(folder, connections - connections // 2 - connections // 4, Random(seed + 2))
    return f"{connections} hostile connections, the known one always served, {time.monotonic() - begin:.0f} s"


async def _attack_observer(folder: RunFolder, connections: int, random: Random) -> None:
    observer = Observer(folder)
    server, root, port = ViewerServer(observer), Root(observer, TOKEN), free_port()
    await server.start()
    await root.start("127.0.0.1", port)
    hello = say.Hello(kind="leaf", run_id=folder.run_id, host="far", node="n")

    async def view() -> None:
        viewer = LiveRun(folder)
        await viewer.open()
        await viewer.close()

    async def link() -> None:
        (await connect(RootAddress("127.0.0.1", port), TOKEN, hello)).abort()

    asked = framed(msgspec.msgpack.encode(Request(want="state")))
    greeted = framed(say.encode(hello))
    try:
        await _alternate(folder.socket, (asked, greeted), connections // 2, random, view)
        address = ("127.0.0.1", port)
        await _alternate(address, (greeted, asked), connections - connections // 2, random, link)
    finally:
        await root.close()
        await server.close()
        await observer.finish("the trial ends")


async def _alternate(
    address: Address,
    talk: tuple[bytes, ...],
    connections: int,
    random: Random,
    known: Callable[[], Awaitable[None]],
) -> None:
    for number in range(connections):
        await asyncio.to_thread(_send, address, talk, random)
        if number % EVERY == 0:
            try:
                await asyncio.wait_for(known(), ANSWER_S)
            except (OSError, TimeoutError, asyncio.TimeoutError) as error:
                raise AssertionError(f"{address} after {number} strangers: {error!r}") from error


def _send(address: Address, talk: tuple[bytes, ...], random: Random) -> None:
    content = bytearray(random.choice(talk))
    for _ in range(random.randrange(6)):
        bend(content, random)
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as stranger, contextlib.suppress(OSError):
        stranger.settimeout(ANSWER_S)
        stranger.connect(address)
        stranger.sendall(content)
        if random.random() < 0.3:
            stranger.shutdown(socket.SHUT_WR)
            stranger.recv(1 << 16)


def _attack_control(folder: RunFolder, connections: int, random: Random) -> None:
    dumps: list[str] = []
    control = ControlSocket(f"{folder.path}/7.sock", dumps.append)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            control.serve(0.05)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        for number in range(connections):
            _send(f"{folder.path}/7.sock", (b"stacks\n", b"nothing\n", b"\n"), random)
            if number % EVERY == 0:
                with socket.socket(socket.AF_UNIX) as known:
                    # With a timeout, a connect to a full backlog fails instead of waiting.
                    known.connect(f"{folder.path}/7.sock")
                    known.settimeout(ANSWER_S)
                    known.sendall(b"dump known\n")
                    assert known.recv(16) == b"ok\n", f"no answer after {number} strangers"
    finally:
        stopping.set()
        serving.join()
        control.close()
    assert "known" in dumps


def _attack_web(folder: RunFolder, connections: int, random: Random) -> None:
    server = WebServer(Pages(str(Path(folder.path).parent)), "127.0.0.1", 0)
    port = server.address[1]
    serving = threading.Thread(target=server.run)
    serving.start()
    talk = (
        b"GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
        b"GET /runs/../../etc/passwd?%00 HTTP/1.1\r\nHost: localhost\r\nX: "
        + b"y" * 9000
        + b"\r\n\r\n",
    )
    try:
        for number in range(connections):
            _send(("127.0.0.1", port), talk, random)
            if number % EVERY == 0:
                url = f"http://127.0.0.1:{port}/metrics"
                with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
                    assert answer.status == 200, f"no answer after {number} strangers"
    finally:
        server.stop()
        serving.join()


if __name__ == "__main__":
    main("Hostile connections", run, 20_000)
