"""A job without distwatch whose rank 1 waits until its test lets it on. Usage: bare_waits.py WAIT COLLECTIVE

Rank 0 waits in the collective meanwhile. Both then train on, and print what came out.
"""

import asyncio
import ctypes
import fcntl
import hashlib
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time

import torch
import torch.distributed as dist
from steps import RANK, WORK, gate, step
from torch.nn.parallel import DistributedDataParallel

WAIT, COLLECTIVE = sys.argv[1:3]
GATE = gate("on") if RANK == 1 else None
ON = threading.Event()


def opened() -> None:
    """Waits in another thread than the main one."""
    GATE.read(1)
    ON.set()


def spin() -> None:
    while not ON.is_set():
        pass


def churn() -> None:
    while not ON.is_set():
        [bytes(size) for size in range(600, 4000, 50)]


def compute() -> None:
    a = torch.eye(300)
    while not ON.is_set():
        a = a @ torch.eye(300)


def write_files() -> None:
    with open(os.path.join(WORK, "checkpoint"), "wb") as file:
        while not ON.is_set():
            file.write(bytes(1 << 16))
            os.fsync(file.fileno())
            file.seek(0)


def asyncio_wait() -> None:
    async def until_on() -> None:
        while not ON.is_set():
            await asyncio.sleep(0.2)

    asyncio.run(until_on())


def lock_of_a_file() -> None:
    path = os.path.join(WORK, "lock")
    held = open(path, "w")  # noqa: SIM115 - another thread closes it
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Thread(target=lambda: (ON.wait(), held.close()), daemon=True).start()
    with open(path, "w") as again:
        fcntl.flock(again, fcntl.LOCK_EX)


def lock_of_a_thread() -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=lambda: (ON.wait(), lock.release()), daemon=True).start()
    lock.acquire()


def queue_of_a_thread() -> None:
    items = queue.Queue()
    threading.Thread(target=lambda: (ON.wait(), items.put(1)), daemon=True).start()
    items.get()


def child() -> None:
    sleeper = subprocess.Popen(["sleep", "1000"])
    threading.Thread(target=lambda: (ON.wait(), sleeper.kill()), daemon=True).start()
    sleeper.wait()


def on_socket(wait: str) -> None:
    ours, theirs = socket.socketpair()
    threading.Thread(target=lambda: (ON.wait(), theirs.send(b".")), daemon=True).start()
    if wait == "recv":
        ours.recv(1)
    elif wait == "select":
        select.select([ours], [], [])
    elif wait == "poll":
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.poll()
    else:
        epoll = select.epoll()
        epoll.register(ours, select.EPOLLIN)
        epoll.poll()


def hold_the_gil() -> None:
    """Waits in native code that does not release it."""
    ctypes.PyDLL(None).read(GATE.fileno(), ctypes.create_string_buffer(1), 1)


WAITS = {
    "gate": lambda: GATE.read(1),
    "stopped": lambda: GATE.read(1),
    "gil": hold_the_gil,
    "stdin": sys.stdin.readline,
    "sleep": lambda: [time.sleep(0.2) for _ in iter(ON.is_set, True)],
    "event": ON.wait,
    "lock": lock_of_a_thread,
    "queue": queue_of_a_thread,
    "flock": lock_of_a_file,
    "child": child,
    "asyncio": asyncio_wait,
    "recv": lambda: on_socket("recv"),
    "select": lambda: on_socket("select"),
    "poll": lambda: on_socket("poll"),
    "epoll": lambda: on_socket("epoll"),
    "spin": spin,
    "churn": churn,
    "compute": compute,
    "write": write_files,
}
"""How rank 1 waits, or does something else."""


def new_group() -> None:
    dist.new_group([0, 1])


def recv() -> None:
    dist.recv(torch.ones(4), 1) if RANK == 0 else dist.send(torch.ones(4), 0)


def store() -> None:
    held = dist.distributed_c10d._get_default_store()
    held.get("late") if RANK == 0 else held.set("late", "1")


COLLECTIVES = {
    "all_reduce": lambda: dist.all_reduce(torch.ones(4)),
    "broadcast": lambda: dist.broadcast(torch.ones(4), 1),
    "barrier": dist.barrier,
    "all_gather_object": lambda: dist.all_gather_object([None, None], {"loss": 1.0}),
    "recv": recv,
    "new_group": new_group,
    "store": store,
    "backward": lambda: None,
}
"""What rank 0 waits in; `backward`: in autograd's thread, in the first step."""


def train() -> str:
    torch.manual_seed(7)
    model = DistributedDataParallel(torch.nn.Linear(32, 32))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for number in range(5):
        loss = model(torch.full((8, 32), 0.1 * (RANK + number))).square().mean()
        if number == 0 and COLLECTIVE == "backward":
            wait_here()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    parameters = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(parameters).hexdigest()


def wait_here() -> None:
    step("waits")
    if RANK == 1:
        WAITS[WAIT]()


dist.init_process_group("gloo")
dist.barrier()
if RANK == 1 and WAIT not in ("gate", "stopped", "gil"):
    threading.Thread(target=opened, daemon=True).start()
if COLLECTIVE != "backward":
    wait_here()
    COLLECTIVES[COLLECTIVE]()
print(f"result {train()}", flush=True)
dist.destroy_process_group()
# On a busy machine torch 2.13 sometimes aborts at the interpreter's end ("terminate called without an
# active exception"), also in this job with nothing brought in: then no end would say anything.
os._exit(0)
