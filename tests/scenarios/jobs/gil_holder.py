"""pt#167023: native code on rank 1 sleeps with the GIL held; the others wait in a barrier."""

import distwatch.auto  # noqa: F401, I001
import ctypes

import torch.distributed as dist
from steps import RANK, step


def call_native_kernel() -> None:
    # PyDLL, unlike CDLL, keeps the GIL during the call.
    ctypes.PyDLL(None).sleep(600)


dist.init_process_group("gloo")
dist.barrier()
step("initialized")
if RANK == 1:
    call_native_kernel()
dist.barrier()
