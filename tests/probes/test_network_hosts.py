"""The host that a waiting call named, out of its frames' values."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from distwatch.probes.call_arguments import awaited_peer, host_by_file, parse_arguments
from tests.support.waiting import wait_until

PEER = "10.0.0.5:8080"


def dump(*frames: tuple[str, dict[str, str]]) -> str:
    """As `py-spy dump --json --locals` writes it, the innermost frame first."""
    told = [
        {
            "name": "f",
            "filename": file,
            "locals": [{"name": n, "repr": v} for n, v in values.items()],
        }
        for file, values in frames
    ]
    return msgspec.json.encode([{"thread_name": "MainThread", "frames": told}]).decode()


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ({"host": '"tracker.example:8080"'}, "tracker.example:8080"),
        ({"host": '"tracker.example"', "port": "8080"}, "tracker.example:8080"),
        ({"url": '"http://user:secret@tracker.example:8080/api?token=s3"'}, "tracker.example:8080"),
        ({"address": '("tracker.example", 8080)'}, "tracker.example:8080"),
        ({"url": '"https://proxied.example/x"'}, ""),
        ({"host": '"tracker.example"'}, ""),
        ({"url": '"/api/run"'}, ""),
        ({"url": '"http://a-host-that-is-cut...'}, ""),
        ({"password": '"tracker.example:8080"'}, ""),
        ({"host": '"no host\\n:8080"'}, ""),
        ({"url": '"http://[::1:8080/"'}, ""),
    ],
)
def test_only_a_host_with_the_port_that_is_waited_for(values: dict[str, str], host: str) -> None:
    found = parse_arguments(dump(("/app/train.py", values)), PEER)
    assert found.get("host", "") == host
    assert "secret" not in str(found)


def test_the_innermost_frame_that_names_one_counts() -> None:
    text = dump(
        ("/lib/python3/socket.py", {"self": "<SocketIO>"}),
        ("/lib/python3/http/client.py", {"url": '"/api"'}),
        ("/lib/python3/urllib/request.py", {"host": '"inner.example:8080"'}),
        ("/app/train.py", {"url": '"http://outer.example:8080/"'}),
    )
    assert parse_arguments(text, PEER) == {"host": "inner.example:8080"}
    assert parse_arguments(text) == {}


def test_who_asks_a_name_server_named_another_port() -> None:
    text = dump(("/app/train.py", {"url": '"https://hub.example/models"'}))
    assert parse_arguments(text, "10.0.0.2:53") == {"host": "hub.example:443"}


def test_a_build_lock_is_the_file_in_the_folder_of_the_build() -> None:
    frames = (
        ("/x/torch/utils/file_baton.py", {"self": "<FileBaton>"}),
        ("/x/torch/utils/cpp_extension.py", {"build_directory": '"/cache/slow"', "name": '"slow"'}),
    )
    assert parse_arguments(dump(*frames)) == {"lock": "/cache/slow/lock"}
    assert parse_arguments(dump(*frames[1:])) == {}


def test_a_hosts_file_names_the_address_of_a_process(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# 127.0.0.1 commented\n127.0.0.1 tracker.test tracker\n10.0.0.5 other\n")
    program = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(); s.recv(1)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = subprocess.Popen(
            [sys.executable, "-u", "-c", program, str(port)], stdout=subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            peer = f"127.0.0.1:{port}"
            wait_until(lambda: awaited_peer(child.pid) == peer)
            assert host_by_file(child.pid, peer, str(hosts)) == f"tracker.test:{port}"
            assert host_by_file(child.pid, "10.9.9.9:1", str(hosts)) == ""
            assert host_by_file(child.pid, peer, str(tmp_path / "absent")) == ""
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
