"""Ranks with a dataloader worker each. Usage: data_workers.py fork|spawn"""

import distwatch.auto  # noqa: F401, I001
import sys

import torch.distributed as dist
from steps import RANK, gate
from torch.utils.data import DataLoader


def main() -> None:
    dist.init_process_group("gloo")
    loader = DataLoader(
        list(range(16)),
        batch_size=2,
        num_workers=1,
        multiprocessing_context=sys.argv[1],
        persistent_workers=True,
    )
    seen = sum(int(batch.sum()) for batch in loader)
    print(f"result rank={RANK} seen={seen}")
    gate("workers live").read(1)
    dist.barrier()
    del loader
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
