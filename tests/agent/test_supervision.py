"""A blocking call is ended at its deadline by cutting its connections, and by nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distwatch.agent.guard import guard_end
from distwatch.agent.initialization.interruption import SIGNAL
from distwatch.agent.initialization.steps import GROUP, Deadlines
from distwatch.agent.initialization.supervision import Supervision, cut_connections
from distwatch.errors import InitFailed, PlanInvalid

LATE = InitFailed("late", step="process group")
REFUTED = InitFailed("refuted", step="agreement")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def wait_for_a_byte(server: socket.socket) -> bytes:
    """As torch waits for its store: until a byte comes, or the connection is gone."""
    with socket.create_connection(server.getsockname()) as connection:
        if not (byte := connection.recv(1)):
            raise ConnectionResetError("got 0 bytes")
        return byte


def test_only_connections_to_that_port_are_cut(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, contextlib.ExitStack() as stack:
        cut, kept, spared = (
            stack.enter_context(socket.create_connection(place.getsockname()))
            for place in (server, other, server)
        )
        assert cut_connections(port_of(server), spared={spared.fileno()}) == 1
        assert cut.recv(1) == b""
        for connection, place in ((kept, other), (spared, server)):
            peers = [place.accept()[0] for _ in range(1 if place is other else 2)]
            for peer in peers:
                peer.sendall(b"x")
                peer.close()
            assert connection.recv(1) == b"x"


def test_a_call_that_returns_is_left_alone(server: socket.socket) -> None:
    with Supervision(deadline_s=60, port=port_of(server), late=lambda: LATE):
        result = 1
    assert result == 1


def test_a_call_that_is_late_ends_with_the_failure_in_place_of_its_own_error(
    server: socket.socket,
) -> None:
    with (
        pytest.raises(InitFailed, match="late") as caught,
        Supervision(deadline_s=0.05, port=port_of(server), late=lambda: LATE),
    ):
        wait_for_a_byte(server)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_what_is_found_meanwhile_ends_it_at_once(server: socket.socket) -> None:
    found = iter([None, REFUTED])
    with (
        pytest.raises(InitFailed, match="refuted"),
        Supervision(
            deadline_s=60, port=port_of(server), late=lambda: LATE, look=lambda: next(found)
        ),
    ):
        wait_for_a_byte(server)


def test_a_world_that_formed_against_the_plan_does_not_pass() -> None:
    looked = threading.Event()

    def look() -> InitFailed:
        looked.set()
        return REFUTED

    with (
        pytest.raises(InitFailed, match="refuted"),
        Supervision(deadline_s=60, port=None, late=lambda: LATE, look=look),
    ):
        assert looked.wait(30)


def test_an_error_of_the_call_itself_is_its_own() -> None:
    with (
        pytest.raises(ValueError, match="own"),
        Supervision(deadline_s=60, port=None, late=lambda: LATE),
    ):
        raise ValueError("own")


def test_ctrl_c_passes(server: socket.socket) -> None:
    with pytest.raises(KeyboardInterrupt), Supervision(deadline_s=60, port=None, late=lambda: LATE):
        raise KeyboardInterrupt


def test_deadlines_by_step_and_as_a_whole() -> None:
    deadlines = Deadlines({"group": 3, "round_trip": 500}, {"init": 100, "group": 20})
    assert deadlines.of(GROUP) == 3
    assert 99 < deadlines.of("round trip") <= 100, "no step outlasts the whole"
    assert 99 < deadlines.of("arrival") <= 100
    assert deadlines.of("framework groups") <= 20, "its own kind's"
    assert Deadlines({"init": 30}, {"init": 100, "group": 20}).of("framework groups") > 29
    assert Deadlines({"init": 7}).whole_s == 7


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"grup": 3.0}, "'group'"), ({"store": -1}, "positive"), ({"store": True}, "positive"),
     ({"store": "5"}, "positive"), ({"": 1}, "There are")],
)  # fmt: skip
def test_deadlines_that_make_no_sense(asked: dict[str, float], words: str) -> None:
    with pytest.raises(PlanInvalid, match=words):
        Deadlines(asked)


def read_pipe(path: str) -> str:
    """A read that nothing ends."""
    with open(path) as pipe:
        return pipe.read()


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    return path


def interrupting(late: Callable[[], InitFailed | None] = lambda: LATE) -> Supervision:
    return Supervision(deadline_s=0.05, port=None, late=late, interrupts=True)


@pytest.mark.parametrize("wait", ["read", "lock", "child"])
def test_a_wait_in_python_is_interrupted(wait: str, pipe: str) -> None:
    held = threading.Lock()
    held.acquire()
    # Started before: an exception out of the start of a process leaves the process behind.
    child = subprocess.Popen(["cat", pipe])
    calls = {"read": lambda: read_pipe(pipe), "lock": held.acquire, "child": child.wait}
    try:
        with pytest.raises(InitFailed) as caught, interrupting():
            calls[wait]()
    finally:
        child.kill()
        child.wait()
    assert caught.value is LATE
    assert signal.getsignal(SIGNAL) == signal.SIG_DFL


def test_a_library_that_swallows_the_exception_gets_it_again(pipe: str) -> None:
    def stubborn() -> None:
        with contextlib.suppress(InitFailed):
            read_pipe(pipe)
        read_pipe(pipe)

    with pytest.raises(InitFailed), interrupting():
        stubborn()


def test_a_hook_of_ours_under_way_is_not_interrupted(pipe: str) -> None:
    """It would take the exception for its own failure, and be switched off."""
    after = threading.Event()

    def hook() -> None:
        # Until the signal has come: its handler has run by then.
        before = signal.getsignal(SIGNAL)
        seen = threading.Event()
        signal.signal(SIGNAL, lambda *given: (seen.set(), before(*given)))  # type: ignore[operator]
        assert seen.wait(30)
        signal.signal(SIGNAL, before)
        after.set()

    def call() -> None:
        guard_end("test", hook)
        assert after.is_set()
        read_pipe(pipe)

    with pytest.raises(InitFailed), interrupting():
        call()


def test_the_jobs_own_handler_stays_and_another_thread_is_left_alone() -> None:
    kept = signal.signal(SIGNAL, lambda *_: None)
    try:
        with interrupting() as own:
            assert not own.interrupts
    finally:
        signal.signal(SIGNAL, kept)
    found: list[bool] = []

    def call() -> None:
        with interrupting() as beside:
            found.append(beside.interrupts)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_deadline_counts_from_the_last_progress_and_who_may_still_move_is_asked_again(
    pipe: str,
) -> None:
    began = time.monotonic()
    answers = iter([None, LATE])
    supervision = Supervision(
        deadline_s=0.05,
        port=None,
        late=lambda: next(answers),
        moved_ns=lambda: int((began + 0.5) * 1e9),
        interrupts=True,
    )
    with pytest.raises(InitFailed), supervision:
        read_pipe(pipe)
    assert time.monotonic() - began > 0.5
    assert next(answers, "asked twice") == "asked twice"
