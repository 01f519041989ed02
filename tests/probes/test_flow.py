"""What a process moves: memory that it fills, and bytes that its connections receive."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import time
from collections.abc import Callable

from distwatch.observer.looks.flows import TOUCHED_AT_LEAST, Flows
from distwatch.probes.flow import counts_of
from distwatch.probes.process import awaited_sockets
from distwatch.probes.socket_counters import received_by
from distwatch.state.flow import Flow

ME = os.getpid()


def touched() -> int:
    counts = counts_of(ME)
    assert counts is not None
    return counts[0].touched


def fill(size: int) -> None:
    """Uses fresh memory: of what a bytearray takes, much may have been used before."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        for place in range(0, size, mmap.PAGESIZE):
            fresh[place] = 1


def test_memory_that_is_used_for_the_first_time_counts() -> None:
    before = touched()
    fill(8 * TOUCHED_AT_LEAST)
    assert touched() - before >= 4 * TOUCHED_AT_LEAST


def test_work_that_fills_memory_moves() -> None:
    flows = Flows()
    flows.look("k", ME)
    fill(8 * TOUCHED_AT_LEAST)
    flow = flows.look("k", ME)
    assert flow is not None
    assert flow.main.at_ns > 0
    assert flow.main.touched_bytes >= TOUCHED_AT_LEAST


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def test_the_kernel_counts_what_a_connection_receives() -> None:
    client, peer = pair()
    with client, peer:
        inode = str(os.fstat(client.fileno()).st_ino)
        peer.sendall(b"x" * 5000)
        client.recv(5000, socket.MSG_WAITALL)
        assert received_by([inode, "1"]) == {inode: 5000}
    assert received_by([]) == {}


def test_what_the_awaited_connection_receives_moves_its_rank() -> None:
    client, peer = pair()
    flows = Flows()
    with client, peer:
        flows.await_sockets("k", [str(os.fstat(client.fileno()).st_ino)])
        flows.look("k", ME)
        peer.sendall(b"x" * 9000)
        client.recv(9000, socket.MSG_WAITALL)
        flows.count_received()
        flow = flows.look("k", ME)
    assert flow is not None
    assert flow.main.received_bytes == 9000


def test_who_waits_on_no_socket_awaits_none() -> None:
    assert awaited_sockets(ME, thorough=False) == set()


def look_until(flows: Flows, pid: int, condition: Callable[[Flow], bool], *, woken: bool = False) -> Flow:  # fmt: skip
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        flow = flows.look("k", pid, woken=woken)
        if flow is not None and condition(flow):
            return flow
    raise AssertionError("it never came to that")


def test_a_main_thread_is_asleep_for_as_long_as_it_does_not_run() -> None:
    flows = Flows()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        # Before that it may sleep on its way to where it reads.
        os.write(cat.stdin.fileno(), b"x")
        os.read(cat.stdout.fileno(), 1)
        asleep = look_until(flows, cat.pid, lambda flow: flow.at_ns > flow.asleep_since_ns > 0)
        still = flows.look("k", cat.pid)
        assert still is not None
        assert still.asleep_since_ns == asleep.asleep_since_ns

        os.write(cat.stdin.fileno(), b"x")
        os.read(cat.stdout.fileno(), 1)
        woke = look_until(flows, cat.pid, lambda flow: flow.asleep_since_ns != asleep.asleep_since_ns)  # fmt: skip
        assert woke.asleep_since_ns == 0

        again = look_until(flows, cat.pid, lambda flow: flow.asleep_since_ns > 0)
        os.write(cat.stdin.fileno(), b"x")
        os.read(cat.stdout.fileno(), 1)
        ours = look_until(flows, cat.pid, lambda flow: flow.cpu_s > again.cpu_s, woken=True)
        assert ours.asleep_since_ns == again.asleep_since_ns, "the observer itself woke it"
