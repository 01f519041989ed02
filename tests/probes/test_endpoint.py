"""What answers at an endpoint: real stores, real ranks in them, and what is no store."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from distwatch.probes.endpoint import probe_endpoint
from tests.probes.others import other

WITHIN = timedelta(seconds=60)
RANK = """
import torch.distributed as dist
dist.init_process_group("gloo")
"""


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    return dist.TCPStore("127.0.0.1", 0, 3, True, wait_for_workers=False)


def environ_of(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo", "DISTWATCH": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def test_ranks_that_have_entered_are_named_by_torchs_own_keys(store: dist.TCPStore) -> None:
    with (
        other(RANK, environ=environ_of(2, store.port)),
        other(RANK, environ=environ_of(1, store.port)),
    ):
        store.wait(["default_pg/0//cpu//0/1", "default_pg/0//cpu//0/2"], WITHIN)
        probed = probe_endpoint("127.0.0.1", store.port)
    assert probed.outcome == "store"
    assert probed.arrived == (1, 2)
    assert probed.clients == 2
    assert probed.owner_pid == os.getpid()
    assert probed.addresses == ("127.0.0.1",)


def test_of_our_words_the_newest_attempt_counts(store: dist.TCPStore) -> None:
    for key in ("distwatch/0/0/0/rank/7", "distwatch/0/1/0/rank/3", "distwatch/0/1/0/terms"):
        store.set(key, "x")
    store.set("default_pg/0//1//cpu//0/5", "a group that is not the default one")
    assert probe_endpoint("localhost", store.port).arrived == (3,)


def test_looking_changes_nothing(store: dist.TCPStore) -> None:
    before = store.num_keys()
    probe_endpoint("127.0.0.1", store.port)
    assert store.num_keys() == before


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    probed = probe_endpoint("127.0.0.1", port)
    assert (probed.outcome, probed.owner_pid) == ("refused", None)
    assert probed.endpoint == f"127.0.0.1:{port}"


def test_a_foreign_listener_is_named() -> None:
    with other("""
        import http.server, socketserver
        server = socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    """) as process:  # fmt: skip
        probed = probe_endpoint("127.0.0.1", process.number())
        assert probed.outcome == "foreign"
        assert probed.owner_pid == process.pid


def test_a_name_that_does_not_resolve() -> None:
    probed = probe_endpoint("no-such-host.invalid", 29500)
    assert (probed.outcome, probed.addresses) == ("unresolved", ())
