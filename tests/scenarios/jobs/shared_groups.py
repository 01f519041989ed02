"""Ranks that use one group in ways that do not fit. Usage: shared_groups.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import fcntl
import gc
import os
import sys
import threading

import torch
import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step

WAY, WHO = sys.argv[1], int(sys.argv[2])
WORLD = int(os.environ["WORLD_SIZE"])
ODD = RANK == WHO


def stay() -> None:
    with open(silent_pipe("other work"), "rb") as pipe:
        pipe.read(1)


def save_in_thread() -> None:
    """A save thread gathers on the group on which the main thread is in a barrier."""
    entered = threading.Event()

    def gather() -> None:
        entered.set()
        dist.all_gather_object([None] * WORLD, "shard")

    saver = threading.Thread(target=gather, name="saver")
    if ODD:  # < threads: rank
        saver.start()
        entered.wait()
        threading.Event().wait(0.5)
        dist.barrier()
    else:
        threading.Timer(0.5, saver.start).start()
        dist.barrier()
    saver.join()


class Metric:
    def __del__(self) -> None:
        dist.all_reduce(torch.ones(3))


def drop_metric() -> None:
    metric = Metric()
    if ODD:  # < finalizer: rank
        del metric
        gc.collect()
    dist.all_reduce(torch.ones(8))
    dist.barrier()


def broadcast_from_me() -> None:
    dist.broadcast(torch.ones(8), 1 - RANK if WORLD == 2 else int(ODD))  # < broadcast: rank


def reduce_to_other() -> None:
    dist.reduce(torch.ones(8), 1 if ODD else 0)  # < reduce: rank
    dist.barrier()


def gather_to_other() -> None:
    target = 1 if ODD else 0  # < gather: rank
    into = [torch.ones(8) for _ in range(WORLD)] if target == RANK else None
    dist.gather(torch.ones(8), into, dst=target)


def scatter_from_other() -> None:
    source = 1 if RANK == 0 else 0  # < scatter: rank
    dist.scatter(torch.ones(8), None, src=source)


def broadcast_in_subgroup() -> None:
    """Group-local and global numbers mixed up."""
    group = dist.new_group([1, 2])
    if RANK in (1, 2):
        if RANK == 1:  # < subgroup: rank
            dist.broadcast(torch.ones(8), 2, group=group)
        else:
            dist.broadcast(torch.ones(8), 1, group=group)
    dist.barrier()


def cross_groups() -> None:
    groups = [dist.new_group(list(range(WORLD)), group_desc=name) for name in ("tp", "dp")]
    for group in groups if ODD else reversed(groups):  # < crossed: rank
        dist.all_reduce(torch.ones(8), group=group)


def circle_of_pairs() -> None:
    """Three ranks, three pairs; each rank begins with another pair."""
    pairs = [dist.new_group([n, (n + 1) % WORLD]) for n in range(WORLD)]
    dist.all_reduce(torch.ones(8), group=pairs[RANK])  # < circle: rank
    dist.all_reduce(torch.ones(8), group=pairs[RANK - 1])


def reduce_loss() -> None:
    dist.all_reduce(torch.ones(8))


def reduce_penalty() -> None:
    dist.all_reduce(torch.ones(8))


def reduce_from_other_lines() -> None:
    for number in range(3):
        reduce_penalty() if ODD and number == 1 else reduce_loss()  # < sites: rank
    stay()


def destroy_early() -> None:
    dist.all_reduce(torch.ones(8))
    if ODD:  # < destroyed: rank
        dist.destroy_process_group()
        stay()
    dist.all_reduce(torch.ones(8))


def destroy_subgroup() -> None:
    group = dist.new_group(list(range(WORLD)), group_desc="ema")
    dist.all_reduce(torch.ones(8), group=group)
    if ODD:  # < destroyed_subgroup: rank
        dist.destroy_process_group(group)
        stay()
    dist.all_reduce(torch.ones(8), group=group)


def skew_counters() -> None:
    if ODD:  # < skew: rank
        dist.new_group([RANK], use_local_synchronization=True)
    dist.new_group(list(range(WORLD)), use_local_synchronization=True)


def hold_a_lock() -> None:
    """One takes a lock and goes on to a call that the other enters only after it has had that lock."""
    path = os.path.join(WORK, "cache.lock")
    with open(path, "w") as file:
        if not ODD:
            fcntl.flock(file, fcntl.LOCK_EX)
        dist.barrier()
        if ODD:  # < held_lock: rank
            fcntl.flock(file, fcntl.LOCK_EX)
        dist.barrier()


WAYS = {
    "held_lock": hold_a_lock,
    "threads": save_in_thread,
    "finalizer": drop_metric,
    "broadcast": broadcast_from_me,
    "reduce": reduce_to_other,
    "gather": gather_to_other,
    "scatter": scatter_from_other,
    "subgroup": broadcast_in_subgroup,
    "crossed": cross_groups,
    "circle": circle_of_pairs,
    "sites": reduce_from_other_lines,
    "destroyed": destroy_early,
    "destroyed_subgroup": destroy_subgroup,
    "skew": skew_counters,
}

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
step("go")
WAYS[WAY]()
step("done")
dist.barrier()
