"""One rank is held up by something that can be named, while the others run a collective.

Usage: blocked_rank.py WAY RANK
"""

import distwatch.auto  # noqa: F401, I001
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step
from torch.utils.data import DataLoader, Dataset

WAY, WHO = sys.argv[1], int(sys.argv[2])


class Shards(Dataset[int]):
    """Items, the second of which cannot be had."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: int) -> int:
        if item == 4:
            self.fetch_shard()
        return item

    def fetch_shard(self) -> None:
        if WAY == "worker_killed":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(silent_pipe("shard"), "rb") as shard:
            shard.read(1)


def iterate(workers: int) -> None:
    for batch in DataLoader(Shards(), batch_size=2, num_workers=workers):
        print(batch)


def spin() -> None:
    while True:
        pass


def poll_flag() -> None:
    done = threading.Event()
    while not done.is_set():
        sum(range(1000))


def take_lock_of_sleeping_thread() -> None:
    lock = threading.Lock()

    def write_cache() -> None:
        with lock, open(silent_pipe("cache"), "rb") as cache:
            cache.read(1)

    threading.Thread(target=write_cache, name="cache writer", daemon=True).start()
    time.sleep(0.5)
    with lock:
        print("never")


def take_file_lock() -> None:
    path = os.path.join(WORK, "cache.lock")
    holder = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)


def wait_for_event() -> None:
    threading.Event().wait()


def read_from_own_worker() -> None:
    """A loader of one's own, whose worker dies without a word."""
    import multiprocessing

    batches = multiprocessing.get_context("fork").Queue()
    worker = multiprocessing.get_context("fork").Process(
        target=lambda: (time.sleep(2), os.kill(os.getpid(), signal.SIGKILL))
    )
    worker.start()
    batches.get()


def stop_at_breakpoint() -> None:
    breakpoint()


def call_native_lock() -> None:
    """A C function that keeps the GIL."""
    ctypes.PyDLL(None).pause()


WAYS = {
    "spin": spin,
    "poll": poll_flag,
    "lock": take_lock_of_sleeping_thread,
    "file_lock": take_file_lock,
    "event": wait_for_event,
    "loader": lambda: iterate(0),
    "worker": lambda: iterate(2),
    "worker_killed": lambda: iterate(2),
    "own_worker": read_from_own_worker,
    "breakpoint": stop_at_breakpoint,
    "gil": call_native_lock,
}

dist.init_process_group("gloo")
for _ in range(3):
    dist.all_reduce(torch.ones(8))
if RANK == WHO:
    step("held up")
    WAYS[WAY]()
else:
    step("waiting")
dist.all_reduce(torch.ones(8))
