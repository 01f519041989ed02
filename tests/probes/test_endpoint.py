"""What answers at an endpoint: real stores, real ranks in them, and what is no store."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from distwatch.probes import endpoint as endpoints
from distwatch.probes.endpoint import probe_endpoint
from distwatch.probes.store_keys import Expected
from distwatch.state.events import EndpointProbed
from distwatch.tcpstore import StoreClient
from tests.probes.others import other

WITHIN = timedelta(seconds=60)
THREE = Expected(world_size=3)
BY_ENVIRONMENT = """
import torch.distributed as dist
dist.init_process_group("gloo")
"""
BY_ADDRESS = """
import os, torch.distributed as dist
place = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
dist.init_process_group("gloo", init_method=place, rank=int(os.environ["RANK"]), world_size=3)
"""
BY_STORE = """
import os, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 3, False)
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", store=dist.PrefixStore("mine", store), rank=rank, world_size=3)
"""
BY_US = """
import distwatch
distwatch.initialize(backend="gloo")
"""
FAILS_ONCE = """
import os, signal, sys
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
    if os.environ["RANK"] == "0":
        print(os.environ["MASTER_PORT"], flush=True)
    signal.pause()
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
sys.exit(os.environ["RANK"] == "1")
"""
HTTP = """
import http.server, socketserver
server = socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
MUTE = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    return dist.TCPStore("127.0.0.1", 0, 3, True, wait_for_workers=False)


def environ_of(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo", "DISTWATCH": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def probe(host_name: str, port: int, expected: Expected | None = THREE) -> EndpointProbed:
    return probe_endpoint(f"{host_name}:{port}", (host_name, port), expected=expected)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("code", "prefix", "expected"),
    [
        (BY_ENVIRONMENT, "default_pg", THREE),
        (BY_ADDRESS, "default_pg", THREE),
        (BY_STORE, "mine", Expected(world_size=3, own_store=True)),
    ],
    ids=["env", "tcp", "store"],
)
def test_ranks_that_have_entered_are_named_by_torchs_own_keys(
    store: dist.TCPStore, code: str, prefix: str, expected: Expected
) -> None:
    with (
        other(code, environ=environ_of(2, store.port)),
        other(code, environ=environ_of(1, store.port)),
    ):
        store.wait([f"{prefix}/0//cpu//0/1", f"{prefix}/0//cpu//0/2"], WITHIN)
        probed = probe("127.0.0.1", store.port, expected)
    assert probed.outcome == "store"
    assert probed.arrived == (1, 2)
    assert probed.clients == 2
    assert probed.owner_pid == os.getpid()
    assert probed.addresses == ("127.0.0.1",)
    assert probed.detail == ""


def test_ranks_under_initialize_are_named_before_torch_knows_them(store: dist.TCPStore) -> None:
    with other(BY_US, environ=environ_of(1, store.port)):
        store.wait(["distwatch/0/0/0/rank/1"], WITHIN)
        probed = probe("127.0.0.1", store.port)
    assert (probed.outcome, probed.arrived) == ("store", (1,))


def test_ranks_of_an_attempt_that_failed_have_not_come_to_the_next(tmp_path: Path) -> None:
    script = tmp_path / "fails_once.py"
    script.write_text(FAILS_ONCE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "--max-restarts=1", str(script)]
    with other("", command=command, environ={"GLOO_SOCKET_IFNAME": "lo", "DISTWATCH": "0"}) as job:
        port = job.number()
        with StoreClient.connect("localhost", port) as client:
            assert "/default_pg/0//cpu//0/1" in client.list_keys(), "torchrun's store is kept"
        probed = probe("localhost", port, Expected(world_size=2, attempt=1, kept_store=True))
    assert probed.outcome == "store"
    assert probed.arrived == ()
    assert "earlier attempt" in probed.detail
    assert probed.owner_pid == job.pid


def test_looking_changes_nothing(store: dist.TCPStore) -> None:
    store.set("mine", "x")
    with StoreClient.connect("127.0.0.1", store.port) as client:
        before = {key: client.get(key) for key in client.list_keys()}
        probe("127.0.0.1", store.port)
        assert {key: client.get(key) for key in client.list_keys()} == before


def test_a_store_by_name_and_by_an_address_of_ipv6() -> None:
    store = dist.TCPStore("localhost", 0, 3, True, wait_for_workers=False)
    by_name = probe("localhost", store.port)
    assert (by_name.outcome, by_name.owner_pid) == ("store", os.getpid())
    written = f"[::1]:{store.port}"
    by_address = probe_endpoint(written, ("::1", store.port))
    assert (by_address.outcome, by_address.owner_pid) == ("store", os.getpid())
    assert by_address.endpoint == written, "the ranks' own spelling is what it is found by"


def test_of_several_addresses_the_one_that_answers_counts(store: dist.TCPStore) -> None:
    nobody = "127.0.0.9"
    with socket.create_server((nobody, 0)) as server:
        unused = server.getsockname()[1]
    resolved = endpoints.Resolved(addresses=(nobody, "127.0.0.1"))
    for port, outcome in ((store.port, "store"), (unused, "refused")):
        probed = probe_endpoint(f"two:{port}", ("two", port), resolved=resolved)
        assert (probed.outcome, probed.addresses) == (outcome, (nobody, "127.0.0.1"))


def test_nobody_listens() -> None:
    port = closed_port()
    probed = probe("127.0.0.1", port)
    assert (probed.outcome, probed.owner_pid) == ("refused", None)
    assert probed.detail == f"nobody listens on 127.0.0.1:{port}"


@pytest.mark.parametrize(("code", "outcome"), [(HTTP, "foreign"), (MUTE, "silent")])
def test_a_listener_that_is_no_store_is_named(
    code: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "ANSWER_WITHIN_S", 0.2)
    with other(code, "--password=hunter2") as process:
        probed = probe("127.0.0.1", process.number())
    assert probed.outcome == outcome
    assert probed.owner_pid == process.pid
    assert "python" in probed.owner_command[0]
    assert "hunter2" not in " ".join(probed.owner_command)


def test_a_port_that_somebody_has_at_another_address() -> None:
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        probed = probe("127.0.0.1", port)
    assert probed.outcome == "refused"
    assert f"pid {os.getpid()} " in probed.detail
    assert "127.0.0.2" in probed.detail


def test_the_owner_is_who_answers_not_who_has_the_port_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoints, "ANSWER_WITHIN_S", 0.2)
    with other(MUTE.replace("127.0.0.1", "127.0.0.3").replace(", 0)", ", int(sys.argv[1]))"),
               str(closed_port())) as process:  # fmt: skip
        port = process.number()
        server = socket.create_server(("127.0.0.1", port))
        with contextlib.closing(server):
            owners = {}
            for first, second in (("127.0.0.1", "127.0.0.3"), ("127.0.0.3", "127.0.0.1")):
                both = endpoints.Resolved(addresses=(first, second))
                probed = probe_endpoint(f"two:{port}", ("two", port), resolved=both)
                owners[first] = probed.owner_pid
    assert owners == {"127.0.0.1": os.getpid(), "127.0.0.3": process.pid}


@pytest.mark.parametrize("name", ["does-not-exist.invalid", "a..b", "x" * 70])
def test_a_name_that_does_not_resolve(name: str) -> None:
    probed = probe(name, 29500)
    assert (probed.outcome, probed.addresses) == ("unresolved", ())
    assert name in probed.detail


class StoreBefore210:
    """A double: a TCPStore of torch before 2.10, which cannot be installed beside the real one.

    It answers a ping and what it holds, and hangs up at a query that it does not know.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection, connection.makefile("rb") as requests:
            requests.read(5)  # VALIDATE
            while (query := requests.read(1)) and query != b"\x11":  # LIST_KEYS
                if query == b"\x0d":  # PING
                    connection.sendall(requests.read(4))
                elif query == b"\x05":  # CHECK one key
                    requests.read(8)
                    requests.read(struct.unpack("=Q", requests.read(8))[0])
                    connection.sendall(b"\x00")
                else:  # GET
                    requests.read(struct.unpack("=Q", requests.read(8))[0])
                    connection.sendall(struct.pack("=Q", 1) + b"2")

    def close(self) -> None:
        self._thread.join()
        self._server.close()


def test_an_older_store_tells_how_many_have_come_and_not_who() -> None:
    with contextlib.closing(StoreBefore210()) as double:
        probed = probe("127.0.0.1", double.port)
    assert (probed.outcome, probed.clients, probed.arrived) == ("store", 2, ())
    assert "before 2.10" in probed.detail


def test_keys_of_a_large_world_are_listed_on_the_stores_own_host_alone(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("default_pg/0//cpu//0/4", "x")
    large = Expected(world_size=10_000)
    assert probe("127.0.0.1", store.port, large).arrived == (4,)
    monkeypatch.setattr(endpoints, "is_here", lambda _: False)
    assert probe("127.0.0.1", store.port, large).arrived == ()
    assert probe("127.0.0.1", store.port, THREE).arrived == (4,)


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="a network of its own needs root"
)
def test_what_ranks_in_another_network_see_is_not_observed() -> None:
    # The same address, and yet another place.
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        code = MUTE.replace('"127.0.0.1", 0', f'"0.0.0.0", {port}')
        command = ["unshare", "--net", sys.executable, "-c", code]
        with other("", command=command) as rank:
            assert rank.number() == port
            place = (f"127.0.0.1:{port}", ("127.0.0.1", port))
            away = probe_endpoint(*place, ranks=[rank.pid])
            both = probe_endpoint(*place, ranks=[rank.pid, os.getpid()])
    for probed in (away, both):
        assert probed.outcome == "error"
        assert probed.detail.startswith("not observed")
    assert away.owner_pid == rank.pid, "whom /proc shows to listen in that network"
    assert both.owner_pid is None
