"""Sends and recvs that do not find each other. Usage: peers.py CASE [STEPS]"""

import distwatch.auto  # noqa: F401, I001
import socket
import sys
import time

import torch
import torch.distributed as dist
from steps import RANK, gate, silent_pipe, step

CASE = sys.argv[1]
WORLD = int(__import__("os").environ["WORLD_SIZE"])


def send_to(peer: int, tag: int = 0) -> None:
    dist.send(torch.ones(8), peer, tag=tag)


def receive_from(peer: int, tag: int = 0) -> None:
    dist.recv(torch.ones(8), peer, tag=tag)


def pass_activations(steps: int) -> None:
    """A pipeline: each stage receives from the one before and sends to the next."""
    for _ in range(steps):
        if RANK > 0:
            receive_from(RANK - 1)
        if RANK < WORLD - 1:
            send_to(RANK + 1)


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def wait_for_request(peer: int) -> None:
    request = dist.irecv(torch.ones(8), peer)
    request.wait()


def talk_beside_torch() -> None:
    """Rank 1 reads from a connection of its own to rank 0, which goes elsewhere."""
    server = socket.create_server(("127.0.0.1", 0))
    port = torch.tensor([server.getsockname()[1]])
    dist.broadcast(port, 0)
    if RANK == 0:
        connection, _ = server.accept()
        read_next_shard()
        connection.sendall(b"go on")
    elif RANK == 1:
        socket.create_connection(("127.0.0.1", int(port))).recv(1)


dist.init_process_group("gloo")
pass_activations(3)
step("ready")
if CASE == "never_sent":  # rank 1 waits for rank 0, which goes elsewhere
    if RANK == 1:
        receive_from(0)
    elif RANK == 0:
        read_next_shard()
elif CASE == "never_received":
    if RANK == 0:
        send_to(1)
    elif RANK == 1:
        read_next_shard()
elif CASE == "async_recv":
    if RANK == 1:
        wait_for_request(0)
    elif RANK == 0:
        time.sleep(600)
elif CASE == "other_tag":
    send_to(1, tag=1) if RANK == 0 else receive_from(0, tag=2)
elif CASE == "ring_of_recvs":
    receive_from((RANK - 1) % WORLD)
    send_to((RANK + 1) % WORLD)
elif CASE == "ring_of_sends":
    send_to((RANK + 1) % WORLD)
    receive_from((RANK - 1) % WORLD)
elif CASE == "recv_against_barrier":
    receive_from(0) if RANK == 1 else dist.barrier()
elif CASE == "pipeline":  # stage 1 of 4 hangs: every stage before and after it waits
    if RANK == 1:
        read_next_shard()
    pass_activations(100)
elif CASE == "one_microbatch_fewer":
    pass_activations(3 if RANK == 0 else 4)
elif CASE == "batch":
    ops = [
        dist.P2POp(dist.irecv, torch.ones(8), (RANK - 1) % WORLD),
        *([dist.P2POp(dist.isend, torch.ones(8), (RANK + 1) % WORLD)] if RANK != 2 else []),
    ]
    for request in dist.batch_isend_irecv(ops):
        request.wait()
elif CASE == "crossed_groups":
    first, second = (
        dist.new_group([0, 1], group_desc="first"),
        dist.new_group([0, 1], group_desc="second"),
    )
    groups = (first, second) if RANK == 0 else (second, first)
    for group in groups:
        dist.all_reduce(torch.ones(8), group=group)
elif CASE == "socket":
    talk_beside_torch()
elif CASE == "healthy":
    pass_activations(50)
step("passed")
dist.barrier()
if CASE == "healthy":
    gate("end").read(1)
    # Without it torch itself aborts now and then at exit, with or without distwatch.
    dist.destroy_process_group()
