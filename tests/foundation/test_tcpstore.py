"""The client against torch's own store, and against what is no store."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from distwatch.tcpstore import StoreClient, StoreUnreachable


@pytest.fixture(scope="module")
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)


@pytest.fixture
def client(store: dist.TCPStore) -> Iterator[StoreClient]:
    with StoreClient.connect("127.0.0.1", store.port) as connected:
        yield connected


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port_of(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


def outcome_of(host: str, port: int, timeout_s: float = 5.0) -> tuple[str, str]:
    with pytest.raises(StoreUnreachable) as caught:
        StoreClient.connect(host, port, timeout_s=timeout_s)
    return caught.value.outcome, caught.value.detail


def test_what_torch_writes_is_read_and_the_other_way_round(
    store: dist.TCPStore, client: StoreClient
) -> None:
    store.set("from torch", "1")
    store.get("from torch")  # torch waits for no answer to a set: now it has been carried out
    client.set("/from us", b"\x00\xff")
    assert client.get("/from torch") == b"1"
    assert store.get("from us") == b"\x00\xff"
    assert client.get("/nobody wrote this") is None
    assert set(client.list_keys()) >= {"/from torch", "/from us"}


def test_the_first_claim_stands(client: StoreClient) -> None:
    assert client.compare_set("/claim", b"", b"a") == b"a"
    assert client.compare_set("/claim", b"", b"b") == b"a"
    assert client.compare_set("/claim", b"a", b"c") == b"c"


def test_counters_begin_at_zero(client: StoreClient) -> None:
    assert [client.add("/count", 2), client.add("/count", 3)] == [2, 5]
    assert client.get("/count") == b"5"


def test_a_watcher_is_no_worker_and_workers_are_counted(
    client: StoreClient, store: dist.TCPStore
) -> None:
    assert client.count_clients() is None
    worker = dist.TCPStore("127.0.0.1", store.port, 1, False)
    assert client.count_clients() == 1
    del worker


def test_a_closed_port_is_refused(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    assert outcome_of("127.0.0.1", port) == ("refused", f"nobody listens on 127.0.0.1:{port}")


def test_another_protocol_is_foreign_and_quoted() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        outcome, detail = outcome_of("127.0.0.1", server.server_port)
        thread.join()
    assert outcome == "foreign"
    assert "it answered b'" in detail


def test_a_listener_that_says_nothing_is_silent(listener: socket.socket) -> None:
    outcome, detail = outcome_of("127.0.0.1", port_of(listener), timeout_s=0.2)
    assert outcome == "silent"
    assert "does not answer" in detail


def test_a_peer_that_hangs_up_is_foreign(listener: socket.socket) -> None:
    def accept_and_close() -> None:
        listener.accept()[0].close()

    thread = threading.Thread(target=accept_and_close)
    thread.start()
    assert outcome_of("127.0.0.1", port_of(listener))[0] == "foreign"
    thread.join()


def test_a_name_that_does_not_resolve() -> None:
    outcome, detail = outcome_of("no-such-host.invalid", 29500)
    assert outcome == "unresolved"
    assert "no-such-host.invalid" in detail


@pytest.mark.parametrize("answer", [b"\xff" * 8, b"\x00" * 3])
def test_a_lying_store_is_no_store(listener: socket.socket, answer: bytes) -> None:
    """Answers the ping, then announces a value that nobody would send, or breaks off."""

    def lie() -> None:
        connection, _ = listener.accept()
        greeting = connection.recv(10, socket.MSG_WAITALL)
        connection.sendall(greeting[6:])
        connection.recv(4096)
        connection.sendall(answer)
        connection.close()

    thread = threading.Thread(target=lie)
    thread.start()
    with (
        StoreClient.connect("127.0.0.1", port_of(listener)) as client,
        pytest.raises(ConnectionError, match=r"claims to hold|hung up"),
    ):
        client.list_keys()
    thread.join()
