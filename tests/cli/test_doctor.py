"""`distwatch doctor`: one line for each look, and what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runs import distwatch


def test_this_machine_is_fit_for_the_tests_that_run_on_it(root: Path) -> None:
    done = distwatch("doctor", root=root)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith(("pass ", "warn ", " ")) for line in lines)
    assert any("reads the stack of another process" in line for line in lines)
    assert "pass" in done.stderr


def test_json_has_every_look_and_the_counts(root: Path) -> None:
    done = distwatch("doctor", "-o", "json", root=root)
    document = json.loads(done.stdout)
    assert document["schema"] == "distwatch.doctor/1"
    statuses = [one["status"] for one in document["checks"]]
    assert document["counts"] == {name: statuses.count(name) for name in ("pass", "warn", "fail")}
    assert all(one["fix"] for one in document["checks"] if one["status"] != "pass")


def test_something_that_fails_ends_with_1(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    done = distwatch("doctor", root=shared)
    assert done.returncode == 1
    assert f"fail  run folder               others may write to {shared}" in done.stdout
    assert f"do: chmod 700 {shared}" in done.stdout


def test_a_taken_port_is_a_warning_with_its_owner(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        done = distwatch("doctor", root=root, MASTER_PORT=port)
    assert done.returncode == 0
    assert f"MASTER_PORT {port} is taken by pid" in done.stdout


def test_secrets_of_the_ports_owner_are_not_told(root: Path) -> None:
    code = (
        "import socket, sys\nlistening = socket.create_server(('127.0.0.1', 0))\n"
        "print(listening.getsockname()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, "--api-key", "sk-0123456789abcdefghij"]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        done = distwatch("doctor", root=root, MASTER_PORT=owner.stdout.readline().strip())
        owner.kill()
    assert f"is taken by pid {owner.pid}" in done.stdout
    assert "0123456789" not in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")
def test_a_machine_with_dockers_shared_memory_and_no_network(root: Path) -> None:
    inside = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", inside, "sh", sys.executable, "-m", "distwatch", "doctor"],
        env={**os.environ, "DISTWATCH_DIR": str(root)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert done.returncode == 1
    assert "a container's default" in done.stdout
    assert "cannot connect to 127.0.0.1" in done.stdout
    assert "ip link set lo up" in done.stdout
