"""NCCL's RAS: what is asked of which process, and what is taken from its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from distwatch.dumps.communicators import NotRas, bounded, read_communicators
from distwatch.probes import ras
from distwatch.probes.ras import NoAnswer, RasListener, ask_status, find_listeners
from distwatch.state.events import Communicator, CommunicatorsSeen
from tests.doubles.ras_server import CommDouble, RasDouble, RasServerDouble
from tests.support.ranks import REPOSITORY, free_port

HARMLESS = ("CLIENT PROTOCOL ", "TIMEOUT ", "SET FORMAT ", "STATUS", "VERBOSE STATUS")
MEMBERS = [("10.0.0.1", 500), ("10.0.0.1", 501), ("10.0.0.2", 500), ("10.0.0.2", 501)]


@contextlib.contextmanager
def served(job: RasDouble) -> Iterator[tuple[RasServerDouble, RasListener]]:
    server = RasServerDouble(job)
    try:
        yield server, RasListener(address="127.0.0.1", port=server.port, pid=os.getpid())
    finally:
        server.close()


@pytest.mark.parametrize("version", [(2, 24), (2, 27), (2, 28), (2, 31)])
def test_every_version_gives_the_same_counts(version: tuple[int, int]) -> None:
    job = RasDouble([CommDouble("aa12f0", MEMBERS, [9, 9, 8, 9])], version)
    with served(job) as (server, listener):
        seen = read_communicators("here", ask_status(listener))
        assert all(said.startswith(HARMLESS) for said in server.said)
    (comm,) = seen.communicators
    assert [comm.count(rank) for rank in range(comm.size)] == [9, 9, 8, 9]
    assert (comm.op, comm.silent) == ("AllReduce", ())
    assert seen.processes[comm.processes[2]] == ("10.0.0.2", 500)


@pytest.mark.parametrize("version", [(2, 27), (2, 28)])
@pytest.mark.parametrize("launched", [[9, None, 8, 9], [0, 9, 9, 9], [9, 9, None, 8]])
def test_a_silent_rank_has_no_count_and_one_that_launched_nothing_has_zero(
    version: tuple[int, int], launched: list[int | None]
) -> None:
    job = RasDouble([CommDouble("aa12f0", MEMBERS, launched)], version)
    with served(job) as (_, listener):
        seen = read_communicators("here", ask_status(listener))
    (comm,) = seen.communicators
    assert [comm.count(rank) for rank in range(comm.size)] == launched


@pytest.mark.parametrize("version", [(2, 27), (2, 28)])
def test_dead_processes_are_told(version: tuple[int, int]) -> None:
    comm = CommDouble("aa12f0", MEMBERS, [9, 9, None, 8])
    with served(RasDouble([comm], version, dead=[MEMBERS[2]])) as (_, listener):
        seen = read_communicators("here", ask_status(listener))
    assert [seen.processes[place] for place in seen.dead] == [MEMBERS[2]]


def test_another_service_on_that_port_is_sent_a_greeting_and_no_more() -> None:
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                came.append(connection.recv(1024))
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")
                while part := connection.recv(1024):
                    came.append(part)

        thread = threading.Thread(target=answer)
        thread.start()
        listener = RasListener(address="127.0.0.1", port=server.getsockname()[1], pid=1)
        with pytest.raises(NoAnswer, match="is not NCCL's RAS"):
            ask_status(listener)
        thread.join()
    assert came == [b"CLIENT PROTOCOL 2\n"]


def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ras, "LARGEST", 1 << 20)
    job = RasDouble([])
    monkeypatch.setattr(job, "json", lambda: b"{" * (2 << 20))
    with served(job) as (_, listener), pytest.raises(NoAnswer, match="larger than"):
        ask_status(listener)


def test_a_service_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ras, "ANSWERED_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts nothing
        listener = RasListener(address="127.0.0.1", port=server.getsockname()[1], pid=1)
        with pytest.raises(NoAnswer, match="did not answer"):
            ask_status(listener)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"communicators": 7}',
        b'{"communicators": [{"hash": "0x1", "size": 1e30, "ranks": []}]}',
        b'{"communicators": [{"hash": "0x1", "size": 2, "ranks": [{"rank": 0, "pid": 5, "host": "h", '
        b'"collective_counts": {"AllReduce": 99999999999999999999999}}]}]}',
        b"NCCL version 2.27.3 compiled with CUDA 12.9",
    ],
)
def test_what_is_no_answer_is_refused(content: bytes) -> None:
    with pytest.raises(NotRas):
        read_communicators("here", content)


def test_where_a_journal_has_no_room_for_all_the_differing_ones_are_kept() -> None:
    alike = [
        Communicator(name=f"{n}", size=8, processes=tuple(range(8)), launched=5)
        for n in range(9_000)
    ]
    odd = Communicator(name="odd", size=2, processes=(0, 1), launched=5, others={1: 4})
    seen = bounded(CommunicatorsSeen(host="here", communicators=(*alike, odd)))
    assert seen.communicators[0] == odd
    assert 1 < len(seen.communicators) < 9_000


@contextlib.contextmanager
def listening_process(**env: str) -> Iterator[int]:
    """The double in a process of its own."""
    port = free_port()
    given = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "NCCL_RAS_ADDR": f"localhost:{port}",
        **env,
    }
    command = [sys.executable, "-m", "tests.doubles.ras_server", str(port), "29"]
    with subprocess.Popen(
        command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_a_process_is_found_by_its_own_socket_and_environment() -> None:
    with listening_process() as pid:
        (listener,) = find_listeners([os.getpid(), pid])
        assert (listener.pid, listener.address, listener.shared) == (pid, "127.0.0.1", False)
        seen = read_communicators("here", ask_status(listener))
        assert seen.processes == (("10.0.0.1", pid),)


def test_who_listens_nowhere_or_has_it_turned_off_is_not_asked() -> None:
    with pytest.raises(NoAnswer, match="no process of the job listens"):
        find_listeners([os.getpid()])
    with listening_process(NCCL_RAS_ENABLE="0") as pid, pytest.raises(NoAnswer):
        find_listeners([pid])
