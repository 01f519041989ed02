"""Ranks that hang, each with a double of the thread of torch's NCCL watchdog that answers requests for dumps.

The thread does what c10d's HeartbeatMonitor does: it makes a named pipe, reads it without waiting, and writes the
recorder's own dump to a file. The recorder is gloo's: there is no NCCL here. Rank 1 never makes the fourth call.
"""

import distwatch.auto  # noqa: F401, I001
import os
import threading
import time

import torch
import torch.distributed as dist
from steps import RANK, silent_pipe, step
from torch._C._distributed_c10d import _dump_fr_trace

PIPE = f"{os.environ['TORCH_NCCL_DEBUG_INFO_PIPE_FILE']}{RANK}.pipe"
FILE = f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{RANK}"


def answer(pipe: int) -> None:
    while True:
        try:
            asked = os.read(pipe, 128)
        except BlockingIOError:
            asked = b""
        if asked:
            with open(FILE, "wb") as file:
                file.write(_dump_fr_trace(True, True, False))
        time.sleep(0.1)


dist.init_process_group("gloo")
os.mkfifo(PIPE, 0o666)
threading.Thread(
    target=answer, args=(os.open(PIPE, os.O_RDONLY | os.O_NONBLOCK),), daemon=True
).start()
for _ in range(3):
    dist.all_reduce(torch.ones(8))
if RANK == 1:
    step("stalled")
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)
dist.all_reduce(torch.ones(8))
