"""Who listens on a port: real listeners, in this process and in another."""

from __future__ import annotations

import os
import socket

import pytest

from distwatch.probes import listeners
from distwatch.probes.listeners import Listener, listeners_of
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
        assert (found.pid, found.address) == (process.pid, address)
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
        assert told == "a process that this user cannot see (of user 0)"


FORKS = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    print(server.getsockname()[1], os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("likely", ["nobody", "child"])
def test_a_forked_child_does_not_listen_its_parent_does(likely: str) -> None:
    with other(FORKS) as process:
        port, child = map(int, process.line().split())
        (found,) = listeners_of(port, likely=[child] if likely == "child" else [])
        assert found.pid == process.pid


def test_who_probably_listens_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "all_pids", lambda: pytest.fail("the whole table was read"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        (found,) = listeners_of(server.getsockname()[1], likely=[os.getpid()])
    assert found.pid == os.getpid()


@pytest.mark.parametrize(
    ("bound", "asked", "nearness"),
    [
        ("127.0.0.1", "127.0.0.1", 2),
        ("127.0.0.1", "127.0.0.2", 0),
        ("0.0.0.0", "127.0.0.1", 1),
        ("0.0.0.0", "::1", 0),
        ("::", "127.0.0.1", 1),
        ("::", "::1", 1),
        ("::ffff:127.0.0.1", "127.0.0.1", 2),
        ("127.0.0.1", "0.0.0.0", 2),
        ("fe80::1", "fe80::1%eth0", 2),
    ],
)
def test_which_listener_an_address_means(bound: str, asked: str, nearness: int) -> None:
    assert Listener(address=bound).nearness(asked) == nearness


def test_every_listener_on_a_port_is_told_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)):
            found = listeners_of(port)
    assert [(each.address, each.pid) for each in found] == [
        ("127.0.0.1", os.getpid()),
        ("127.0.0.2", os.getpid()),
    ]


def test_a_network_whose_process_has_ended_is_not_taken_for_an_empty_one() -> None:
    with other("print(1, flush=True)") as process:
        process.number()
        process.process.wait()
        with pytest.raises(ProcessLookupError):
            listeners_of(1, network_of=process.pid)
