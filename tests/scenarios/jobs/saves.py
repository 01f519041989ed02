"""A save of a checkpoint that makes no progress on one rank. Usage: saves.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import os
import sys

import torch
import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step

WAY, WHO = sys.argv[1], int(sys.argv[2])
ODD = RANK == WHO
STATE = {"layer.weight": torch.ones(1 << 18)}


def target(name: str) -> str:
    """A path whose storage does not take what is written: a FIFO that nobody reads."""
    return silent_pipe(name) if ODD else os.path.join(WORK, f"{name}-{RANK}")


def save_with_torch() -> None:
    torch.save(STATE, target("model.pt"))


def stall_file_writes() -> None:
    """DCP writes through these: one rank's storage does not come back."""
    from torch.distributed.checkpoint import filesystem

    create = filesystem.FileSystem.create_stream

    def create_stream(self, path, mode):  # type: ignore[no-untyped-def]
        if ODD and "distcp" in str(path):
            path = silent_pipe("part.distcp")
        return create(self, path, mode)

    filesystem.FileSystem.create_stream = create_stream  # type: ignore[method-assign]


def save_with_dcp() -> None:
    import torch.distributed.checkpoint as dcp

    stall_file_writes()
    dcp.save(STATE, checkpoint_id=os.path.join(WORK, "step-100"))


def save_with_dcp_later() -> None:
    import torch.distributed.checkpoint as dcp

    stall_file_writes()
    dcp.async_save(STATE, checkpoint_id=os.path.join(WORK, "step-100")).result()


def save_too_much_with_dcp() -> None:
    """One rank cannot write its part: DCP raises that on all ranks."""
    import resource

    import torch.distributed.checkpoint as dcp

    if ODD:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
    part = {f"part {RANK}": torch.ones((4 << 20) if ODD else 8)}
    dcp.save(part, checkpoint_id=os.path.join(WORK, "step-100"))


WAYS = {
    "torch": save_with_torch,
    "dcp": save_with_dcp,
    "dcp_async": save_with_dcp_later,
    "dcp_fails": save_too_much_with_dcp,
}

dist.init_process_group("cpu:gloo" if WAY == "dcp_async" else "gloo")
dist.all_reduce(torch.ones(8))
step("go")
WAYS[WAY]()
step("saved")
dist.barrier()
