"""One rank is elsewhere, in the way that is asked for, while the others run a collective.

Usage: elsewhere.py WAY MISSING_RANK COLLECTIVE [MEMBER…]
"""

import distwatch.auto  # noqa: F401, I001
import queue
import subprocess
import sys
import threading

import torch
import torch.distributed as dist
from steps import RANK, silent_pipe, step

WAY, MISSING, COLLECTIVE, *MEMBERS = sys.argv[1:]


def read_next_shard() -> None:
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)


def take_batch() -> None:
    queue.Queue[int]().get()


def await_upload() -> None:
    subprocess.run(["cat", silent_pipe("upload")], check=True)


def acquire_cache_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


WAYS = {
    "read": read_next_shard,
    "queue": take_batch,
    "child": await_upload,
    "lock": acquire_cache_lock,
}
COLLECTIVES = {
    "all_reduce": lambda group: dist.all_reduce(torch.ones(8), group=group),
    "barrier": lambda group: dist.barrier(group=group),
    "async": lambda group: dist.all_reduce(torch.ones(8), group=group, async_op=True).wait(),
    "gather": lambda group: dist.all_gather_object([None] * dist.get_world_size(group), 1, group),
}

dist.init_process_group("gloo")
group = dist.new_group([int(r) for r in MEMBERS], group_desc="tensor") if MEMBERS else None
for _ in range(3):
    dist.all_reduce(torch.ones(8))
if int(MISSING) == RANK:
    step("stalled")
    WAYS[WAY]()
elif not MEMBERS or str(RANK) in MEMBERS:
    step("waiting")
    COLLECTIVES[COLLECTIVE](group)
step("idle")
dist.barrier()
