"""A rank asks its observer why its world does not form, and is answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator

import pytest

from distwatch.agent.initialization.missing_ranks import ask_verdict
from distwatch.observer import daemon
from distwatch.observer.daemon import Observer
from distwatch.observer_socket import ask_observer
from distwatch.runfolder import RunFolder
from distwatch.state.events import NotObserved
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def test_a_rank_that_asks_is_told_where_everybody_stands(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a crowded machine the look at the port takes longer, and the answer would come without it.
    monkeypatch.setattr(daemon, "ANSWER_WITHIN_S", 25.0)
    rank = start_rank(0, 2)
    rank.do(f"plan 127.0.0.1:{closed_port()} 2")
    rank.do("begin init_process_group 0")
    observer.tick()
    verdict = await asyncio.to_thread(ask_verdict, observer.folder, 30.0)
    assert verdict is not None
    assert [(s.global_rank, s.word, s.pid) for s in verdict.rank_statuses] == [
        (0, "initializing", rank.pid),
        (1, "unobserved", None),
    ]
    assert [(f.code, f.culprit_ranks) for f in verdict.findings] == [
        ("rendezvous.rank_never_started", (1,))
    ]
    assert observer.viewers == 0
    judged = [f.code for f in observer.state.recorded_findings]
    assert judged == ["rendezvous.rank_never_started"], "what a rank is told is on record"


async def test_without_an_observer_nobody_answers(folder: RunFolder) -> None:
    assert await asyncio.to_thread(ask_verdict, folder, 1.0) is None


async def test_an_observer_that_does_not_answer_is_not_waited_for(folder: RunFolder) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(folder.socket)
        mute.listen()
        assert await asyncio.to_thread(ask_verdict, folder, 0.1) is None


async def test_what_cannot_be_judged_is_told_and_the_rank_is_answered_yet(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rank(0, 2)

    def broken() -> bool:
        raise ValueError("a check failed")

    monkeypatch.setattr(observer.judge, "judge", broken)
    verdict = await asyncio.to_thread(ask_verdict, observer.folder, 30.0)
    assert verdict is not None
    assert [status.global_rank for status in verdict.rank_statuses] == [0, 1]
    told = [e.event for e in observer.state.timeline if isinstance(e.event, NotObserved)]
    assert any("a check failed" in one.why for one in told)


async def test_an_answer_does_not_wait_for_a_look_that_does_not_end(
    observer: Observer, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "ANSWER_WITHIN_S", 0.01)
    rank = start_rank(0, 2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        rank.do(f"plan 127.0.0.1:{mute.getsockname()[1]} 2")
        rank.do("begin init_process_group 100")
        observer.tick()
        verdict = await asyncio.to_thread(ask_verdict, observer.folder, 30.0)
        assert verdict is not None
        (watched,) = observer.endpoints._watched.values()
        assert watched.looking is not None, "the look goes on"
        await asyncio.wait([watched.looking])


@pytest.fixture
def strangers_folder() -> Iterator[RunFolder]:
    """Where another user can make things; pytest's own folders are closed to him."""
    path = tempfile.mkdtemp(prefix="dw-", dir="/tmp")
    os.chmod(path, 0o777)
    yield RunFolder(path)
    shutil.rmtree(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_nothing_is_said_to_another_users_observer(strangers_folder: RunFolder) -> None:
    """An order holds a token: it goes to this user's observer, or to root's."""
    folder = strangers_folder
    heard, told = os.pipe()
    if not (stranger := os.fork()):
        try:
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(folder.socket)
                listener.listen()
                os.write(told, b"up")
                connection, _ = listener.accept()
                os.write(told, b"<" + connection.recv(4096) + b">")
        finally:
            os._exit(0)
    try:
        assert os.read(heard, 2) == b"up"
        with pytest.raises(PermissionError, match="uid 65534"):
            ask_observer(folder, {"want": "verdict"}, 5.0)
        assert os.read(heard, 4096) == b"<>"
    finally:
        os.waitpid(stranger, 0)
        os.close(heard)
        os.close(told)
