"""transformers#1081: a barrier on rank 0 only; the others go on to work that never meets it."""

import distwatch.auto  # noqa: F401, I001
import sys

import torch.distributed as dist
from steps import RANK, gate, step

dist.init_process_group("gloo")
dist.barrier()


def evaluate_for_ever() -> None:
    gate("evaluation").read(1)


if RANK == 0:
    step("waiting")
    dist.barrier()
else:
    evaluate_for_ever()
    sys.exit(0)
