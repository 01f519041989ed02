"""An exception that nobody sees holds up one rank. Usage: exceptions.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from steps import RANK, step

WAY, WHO = sys.argv[1], int(sys.argv[2])


def compute() -> None:
    if RANK == WHO:  # < finally context exit: rank
        raise ValueError("loss is not finite at batch 17")
    dist.all_reduce(torch.ones(8))


def clean_up_in_finally() -> None:
    try:
        for _ in range(3):
            compute()
    finally:
        dist.barrier()


@contextlib.contextmanager
def synchronized() -> Iterator[None]:
    try:
        yield
    finally:
        dist.barrier()


def clean_up_in_exit() -> None:
    with synchronized():
        for _ in range(3):
            compute()


class Saver:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        dist.broadcast(torch.ones(4), 0)


def save_in_exit() -> None:
    with Saver():
        for _ in range(3):
            compute()


def report_in_handler() -> None:
    try:
        for _ in range(3):
            compute()
    except ValueError:  # < handler: exception
        dist.all_gather_object([None, None], "failed")
        raise


def load_batch() -> None:
    raise MemoryError("cannot allocate 3 GiB")


def try_again() -> None:
    while RANK == WHO:  # < retry: rank
        try:
            load_batch()
            return
        except MemoryError:
            time.sleep(0.05)
    dist.all_reduce(torch.ones(8))


def try_again_busily() -> None:
    while RANK == WHO:  # < busy_retry: rank
        with contextlib.suppress(MemoryError):
            load_batch()
    dist.all_reduce(torch.ones(8))


def try_again_later() -> None:
    """The pause is outside of the handler."""
    while RANK == WHO:  # < late_retry: rank
        try:
            load_batch()
        except MemoryError as error:
            last = str(error)
        time.sleep(0.2)
        print(last)
    dist.all_reduce(torch.ones(8))


def prefetch(batches: "queue.Queue[int]") -> None:
    batches.put(1)
    raise KeyError("label of sample 42")


def wait_for_prefetch() -> None:
    if RANK == WHO:  # < thread: rank
        batches: queue.Queue[int] = queue.Queue()
        threading.Thread(target=prefetch, args=(batches,), name="prefetch", daemon=True).start()
        batches.get()
        batches.get()
    dist.all_reduce(torch.ones(8))


def poll_for_thread() -> None:
    if RANK == WHO:  # < polled_thread: rank
        ready: list[int] = []
        threading.Thread(target=load_batch, name="loader", daemon=True).start()
        while not ready:
            time.sleep(0.05)
    dist.all_reduce(torch.ones(8))


def wait_for_flag() -> None:
    if RANK == WHO:  # < exited_thread: rank
        ready = threading.Event()
        threading.Thread(target=sys.exit, name="loader").start()
        ready.wait()
    dist.all_reduce(torch.ones(8))


WAYS = {
    "finally": clean_up_in_finally,
    "context": clean_up_in_exit,
    "exit": save_in_exit,
    "handler": report_in_handler,
    "retry": try_again,
    "busy_retry": try_again_busily,
    "late_retry": try_again_later,
    "thread": wait_for_prefetch,
    "polled_thread": poll_for_thread,
    "exited_thread": wait_for_flag,
}

dist.init_process_group("gloo")
for _ in range(3):
    dist.all_reduce(torch.ones(8))
step("go")
WAYS[WAY]()
step("done")
