"""Rank 0 is at work of its own for longer than any deadline, and the others wait for it.

Usage: works_alone.py WAY, or the name of a unit of work. It goes on until the test opens the gate
`enough`; where the test opens the gate `stall` first, the same work hangs: in a read, or (STALL_BY=polling) in a
loop that asks for a flag that nobody sets.
"""

import distwatch.auto  # noqa: F401, I001
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from typing import BinaryIO

import torch
import torch.distributed as dist
from steps import RANK, WORK, gate, silent_pipe, step
from units_of_work import UNITS, serve_by_event_loop

WAY = sys.argv[1]
PAUSE_S = 0.1


def is_open(door: BinaryIO) -> bool:
    return bool(select.select([door], [], [], 0)[0])


def stand_still() -> None:
    step("nothing moves")
    if os.environ.get("STALL_BY") == "polling":
        ready = threading.Event()
        while not ready.is_set():
            pass
    with open(silent_pipe("nothing"), "rb") as pipe:
        pipe.read(1)


def save_checkpoint(enough: BinaryIO, stall: BinaryIO) -> None:
    with open(os.path.join(WORK, "checkpoint"), "wb") as file:
        while not is_open(enough):
            if is_open(stall):
                stand_still()
            file.write(b"x" * 65536)
            os.fsync(file.fileno())
            time.sleep(PAUSE_S)


def evaluate(enough: BinaryIO, stall: BinaryIO) -> None:
    model, batch = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()), torch.ones(8, 64)
    done = 0
    while not is_open(enough):
        if is_open(stall):
            stand_still()
        model(batch)
        done += 1
        if done % 100 == 0:
            print(f"evaluated {done} batches", flush=True)


def compile_functions(enough: BinaryIO, stall: BinaryIO) -> None:
    while not is_open(enough):
        if is_open(stall):
            stand_still()
        torch._dynamo.reset()
        torch.compile(lambda x: (x * 2 + 1).relu().sum(), backend="eager")(torch.ones(4))


def run_tokenizer(enough: BinaryIO, stall: BinaryIO) -> None:
    """In a process of its own, whose end it waits for."""
    code = (
        "import os, select, sys, time\n"
        "enough, stall = int(sys.argv[1]), int(sys.argv[2])\n"
        "with open(sys.argv[3], 'wb') as file:\n"
        "    while not select.select([enough], [], [], 0.1)[0]:\n"
        "        if select.select([stall], [], [], 0)[0]: select.select([], [], [])\n"
        "        file.write(b'tokens' * 1000); file.flush()\n"
    )
    doors = (enough.fileno(), stall.fileno())
    command = [sys.executable, "-c", code, *map(str, doors), os.path.join(WORK, "tokens")]
    subprocess.run(command, check=True, pass_fds=doors, env={**os.environ, "DISTWATCH": "0"})


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def serve(enough: BinaryIO, stall: BinaryIO) -> None:
    """An engine without requests."""
    with listen() as server:
        while enough not in select.select([server, enough], [], [])[0]:
            pass


def serve_by_thread(enough: BinaryIO, stall: BinaryIO) -> None:
    """An engine whose requests come through a queue."""
    requests: queue.Queue[str] = queue.Queue()

    def receive() -> None:
        with listen() as server:
            while enough not in select.select([server, enough], [], [])[0]:
                pass
        requests.put("stop")

    threading.Thread(target=receive, name="receiver", daemon=True).start()
    requests.get()


def serve_by_loop(enough: BinaryIO, stall: BinaryIO) -> None:
    serve_by_event_loop(enough.fileno())


def debug(enough: BinaryIO, stall: BinaryIO) -> None:
    """Somebody looks at rank 0, at a terminal."""
    breakpoint()


def schedule_requests(enough: BinaryIO | None) -> None:
    """As SGLang's scheduler: rank 0 looks for requests again and again, and hands on what it has, mostly nothing."""
    with listen() as server:
        told: list[object] = [None]
        while told != ["stop"]:
            if enough is not None:
                ready = select.select([server, enough], [], [], 0.2)[0]
                told = ["stop" if enough in ready else None]
            dist.broadcast_object_list(told, src=0)


def poll_message_queue(enough: BinaryIO | None) -> None:
    """As vLLM's workers: they poll shared memory for work, in no call of torch.distributed."""
    path = os.path.join(WORK, "messages")
    if enough is not None:
        while not is_open(enough):
            time.sleep(PAUSE_S)
        with open(path, "w") as file:
            file.write("stop")
    while not os.path.exists(path):
        time.sleep(0.001)


def repeat(enough: BinaryIO, stall: BinaryIO) -> None:
    """One unit of work after the other."""
    while not is_open(enough):
        if is_open(stall):
            stand_still()
        UNITS[WAY]()


WAYS = {
    "checkpoint": save_checkpoint,
    "evaluate": evaluate,
    "compile": compile_functions,
    "child": run_tokenizer,
    "serve": serve,
    "serve_by_thread": serve_by_thread,
    "serve_by_loop": serve_by_loop,
    "debug": debug,
} | dict.fromkeys(UNITS, repeat)

ENGINES = {"schedule": schedule_requests, "message queue": poll_message_queue}
"""All ranks run them."""

if __name__ == "__main__":  # children import this file, too
    dist.init_process_group("gloo")
    dist.barrier()
    told: list[object] = ["begin"]
    if WAY in ENGINES:
        step("waiting")
        ENGINES[WAY](gate("enough") if RANK == 0 else None)
    elif RANK == 0:
        WAYS[WAY](gate("enough"), gate("stall"))
    step("waiting")
    dist.broadcast_object_list(told, src=0)
    step("done")
    dist.destroy_process_group()
