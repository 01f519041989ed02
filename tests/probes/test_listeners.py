"""Who listens on a port: real listeners, in this process and in another."""

from __future__ import annotations

import os
import socket

import pytest

from distwatch.probes.listeners import listeners_of
from distwatch.runfolder import start_ticks
from distwatch.state.frames import process_key
from tests.probes.others import as_nobody, other

LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_listener_is_named(address: str) -> None:
    with other(LISTEN, address, "--token=hunter2") as process:
        (found,) = listeners_of(process.number())
        assert found.pid == process.pid
        assert found.process == process_key(
            os.uname().nodename, process.pid, start_ticks(process.pid)
        )
        assert "python" in str(found)
        assert "hunter2" not in str(found), "command lines are redacted"


def test_a_port_that_nobody_listens_on_has_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(server.getsockname())
        assert [one.pid for one in listeners_of(port)] == [os.getpid()]
    # The client's end is still connected to that port, and listens to nobody.
    assert listeners_of(port) == []
    client.close()


def test_another_network_is_asked_for_by_one_of_its_processes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listeners_of(server.getsockname()[1], network_of=os.getpid())


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_a_listener_of_another_user_is_there_but_not_named() -> None:
    with other(LISTEN, "127.0.0.1") as process:
        port = process.number()
        told = as_nobody(lambda: str(listeners_of(port)[0]))
        assert told == "a process that this user cannot see"
