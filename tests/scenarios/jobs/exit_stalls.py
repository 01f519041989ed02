"""Training is over, and one rank's process does not end. Usage: exit_stalls.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import atexit
import concurrent.futures
import multiprocessing
import subprocess
import sys
import threading

import torch
import torch.distributed as dist
from steps import RANK, silent_pipe, step

WAY, WHO = sys.argv[1], int(sys.argv[2])
never = threading.Event()


def upload_logs() -> None:
    with open(silent_pipe("tracker"), "rb") as pipe:
        pipe.read(1)


def start_thread() -> None:
    threading.Thread(target=upload_logs, name="uploader").start()


def start_child() -> None:
    multiprocessing.get_context("fork").Process(target=upload_logs).start()


def register_handler() -> None:
    atexit.register(upload_logs)


def start_executor() -> None:
    concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="saver").submit(never.wait)


def fill_queue() -> None:
    """Its feeder thread cannot write what nobody reads."""
    queue = multiprocessing.get_context("fork").Queue()
    queue.put(b"x" * (1 << 20))
    globals()["kept"] = queue


def run_command() -> None:
    """A handler that waits for a program."""
    atexit.register(subprocess.run, ["cat", silent_pipe("tracker")], check=False)


WAYS = {
    "thread": start_thread,
    "child": start_child,
    "atexit": register_handler,
    "executor": start_executor,
    "queue": fill_queue,
    "command": run_command,
    "healthy": lambda: None,
}

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
if RANK == WHO:
    WAYS[WAY]()
step("over")
dist.destroy_process_group()
