"""Rank 0 answers questions as NCCL's RAS does (a double: there is no NCCL here); one rank never comes.

Usage: answers_ras.py PORT MISSING_RANK
"""

import distwatch.auto  # noqa: F401, I001
import os
import sys

import torch
import torch.distributed as dist
from steps import RANK, silent_pipe, step

from tests.doubles.ras_server import CommDouble, RasDouble, RasServerDouble

PORT, MISSING = map(int, sys.argv[1:])

dist.init_process_group("gloo")
pids = [0] * dist.get_world_size()
dist.all_gather_object(pids, os.getpid())
dist.all_reduce(torch.ones(8))
if RANK == 0:
    launched = [9001 - (rank == MISSING) for rank in range(len(pids))]
    members = [("10.0.0.1", pid) for pid in pids]
    server = RasServerDouble(RasDouble([CommDouble("aa12f0", members, launched)]), PORT)
    step("answers")
dist.barrier()
if RANK == MISSING:
    step("stalled")
    with open(silent_pipe("shard"), "rb") as shard:
        shard.read(1)
dist.all_reduce(torch.ones(8))
