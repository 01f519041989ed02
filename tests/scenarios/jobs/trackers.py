"""Hangs that people reported on public trackers, one function each. Usage: trackers.py WAY. Most need two ranks."""

import distwatch.auto  # noqa: F401, I001
import os
import queue
import socket
import sys
import threading
import time
from multiprocessing import shared_memory

import torch
import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step

WAY = sys.argv[1]
ODD = RANK == 1


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def gather_in_a_save_thread() -> None:
    """KempnerForge#104: two threads, one group, in another order per rank."""

    def save_state() -> None:
        dist.all_gather_object([None] * 2, {"step": 1})

    saver = threading.Thread(target=save_state, name="saver")
    saver.start()
    if not ODD:
        time.sleep(1)  # its thread is first, the other rank's main thread is
    dist.barrier() if ODD else saver.join()
    dist.barrier()


def wait_for_a_build() -> None:
    """pt#189245: an extension's lock file whose owner is dead."""
    from torch.utils.file_baton import FileBaton

    lock = os.path.join(WORK, "lock")
    if ODD:
        open(lock, "w").close()
        baton = FileBaton(lock)
        if not baton.try_acquire():
            step("stuck")
            baton.wait()
    dist.barrier()


def try_again_for_ever() -> None:
    """fairseq#3989: an error is caught and the batch is tried again."""

    def run_batch() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (a double)")

    step("stuck")
    while ODD:
        try:
            run_batch()
            break
        except torch.OutOfMemoryError:
            time.sleep(0.01)
    dist.all_reduce(torch.ones(1))


def clean_up_after_an_exception() -> None:
    """torchtitan#1342: an exception is in flight, and `finally` waits."""
    step("stuck")
    try:
        if ODD:
            raise ValueError("the loss is not finite")
        dist.all_reduce(torch.ones(1))
    finally:
        dist.barrier()


def mix_up_roots() -> None:
    """vllm-omni#6264: a rank's number in its group and in the world are mixed up."""
    step("stuck")
    dist.broadcast(torch.ones(1), src=RANK ^ 1)
    dist.all_reduce(torch.ones(4))
    dist.barrier()


def destroy_early() -> None:
    """pt#75097: rank 0 has destroyed its group and does other work; rank 1 has one step left."""
    if not ODD:
        dist.destroy_process_group()
        step("stuck")
        read_next_shard()
    dist.all_reduce(torch.ones(1))


def never_exit() -> None:
    """pt#48666: a thread that nobody ends keeps rank 1."""
    dist.barrier()
    dist.destroy_process_group()
    if ODD:
        threading.Thread(target=read_next_shard, name="metrics").start()
    step("stuck")


def ask_a_tracker() -> None:
    """bergson#249: rank 0 waits for an HTTP answer."""
    if not ODD:
        import http.client

        silent = socket.create_server(("127.0.0.1", 0))
        step("stuck")
        http.client.HTTPConnection("127.0.0.1", silent.getsockname()[1]).request("GET", "/runs")
        client = http.client.HTTPConnection("127.0.0.1", silent.getsockname()[1])
        client.request("GET", "/runs")
        client.getresponse()
    dist.barrier()


def ask_on_stdin() -> None:
    """wandb#592."""
    if ODD:
        step("stuck")
        input("wandb: (1) Create a W&B account ")
    dist.barrier()


def lose_a_prefetch_thread() -> None:
    """red-rover#23: the thread died by an exception, main waits on its queue."""
    batches: queue.Queue[int] = queue.Queue()

    def prefetch() -> None:
        raise FileNotFoundError("shard 7")

    if ODD:
        threading.Thread(target=prefetch, name="prefetch", daemon=True).start()
        step("stuck")
        batches.get()
    dist.barrier()


def poll_shared_memory() -> None:
    """vllm#27313: rank 0 polls for a slot that rank 1 would free, which waits in recv."""
    if ODD:
        step("stuck")
        dist.recv(torch.ones(1), 0)
    slots = shared_memory.SharedMemory(create=True, size=8)
    while slots.buf is not None and not slots.buf[0]:
        time.sleep(0)
    dist.send(torch.ones(1), 1)


def pass_no_monitored_barrier() -> None:
    """pt#53773: ranks 1 and 2 of 4 never come to it."""
    step("stuck")
    if RANK in (1, 2):
        read_next_shard()
    dist.monitored_barrier()


def make_local_groups() -> None:
    """pt#173608: names of local groups differ."""
    if ODD:
        dist.new_group([1], use_local_synchronization=True)
    step("stuck")
    dist.new_group([0, 1], use_local_synchronization=True)
    dist.barrier()


def save_a_checkpoint() -> None:
    """A save whose file does not take what is written."""
    if not ODD:
        fifo = silent_pipe("checkpoint")
        reader = os.open(fifo, os.O_RDWR)
        step("stuck")
        torch.save({"weights": torch.ones(1 << 20)}, os.fdopen(os.open(fifo, os.O_WRONLY), "wb"))
        os.close(reader)
    dist.barrier()


WAYS = {
    "threads": gather_in_a_save_thread,
    "build": wait_for_a_build,
    "retries": try_again_for_ever,
    "in_flight": clean_up_after_an_exception,
    "roots": mix_up_roots,
    "destroyed": destroy_early,
    "exit": never_exit,
    "tracker": ask_a_tracker,
    "stdin": ask_on_stdin,
    "prefetch": lose_a_prefetch_thread,
    "poll": poll_shared_memory,
    "monitored": pass_no_monitored_barrier,
    "local_groups": make_local_groups,
    "checkpoint": save_a_checkpoint,
}

dist.init_process_group("gloo")
dist.barrier()
step("begun")
WAYS[WAY]()
