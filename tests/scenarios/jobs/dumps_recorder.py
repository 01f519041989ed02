"""Ranks without distwatch that hang, dump torch's flight recorder from a thread, and end.

Usage: dumps_recorder.py CASE pickle|frames|json
"""

import json
import os
import sys
import threading
import time

import torch
import torch.distributed as dist
from steps import RANK, WORK, gate, step
from torch._C._distributed_c10d import _dump_fr_trace, _dump_fr_trace_json

CASE, KIND = sys.argv[1:]
WORLD = int(os.environ["WORLD_SIZE"])
LAST = {"missing": 4, "mismatch": 3, "uneven": 5, "healthy": 0}
"""The number of the collective that never ends."""
WAITS = threading.Event()
folder = os.path.join(WORK, "dumps")
os.makedirs(folder, exist_ok=True)


def is_blocked() -> bool:
    """Whether the main thread sits in the collective that never ends, and all before are over."""
    entries = json.loads(_dump_fr_trace_json()).get("entries") or []
    open_ones = [entry["collective_seq_id"] for entry in entries if not entry["retired"]]
    return open_ones == [LAST[CASE]]


def dump_when_asked() -> None:
    while not is_blocked() and not WAITS.is_set():
        time.sleep(0.02)
    if not WAITS.is_set():
        step("blocked")
    gate("dump").read(1)
    if KIND == "json":
        content = _dump_fr_trace_json()
        content = content.encode() if isinstance(content, str) else content
    else:
        content = _dump_fr_trace(True, KIND == "frames", False)
    with open(os.path.join(folder, f"trace_rank_{RANK}"), "wb") as file:
        file.write(content)
    step("dumped")
    os._exit(0)


def reduce_steps(count: int) -> None:
    for _ in range(count):
        dist.all_reduce(torch.ones(8))


def wait_for_ever() -> None:
    WAITS.set()
    step("waiting")
    threading.Event().wait()


dist.init_process_group("gloo")
threading.Thread(target=dump_when_asked).start()
if CASE == "missing":
    reduce_steps(3 if RANK == 1 else 4)
elif CASE == "mismatch":
    reduce_steps(2)
    dist.barrier() if RANK == 1 else dist.all_reduce(torch.ones(8))
elif CASE == "uneven":
    reduce_steps(5 if RANK == 1 else 4)
    dist.barrier()
elif CASE == "healthy":
    reduce_steps(4)
wait_for_ever()
