"""A TorchTrainer of two workers; at its third step rank 1's first worker waits for data for ever."""

import os

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

WORK = os.environ["TEST_WORK"]


def train() -> None:
    import torch
    from steps import RANK, gate, step

    import distwatch.auto  # noqa: F401  # its only line for distwatch: no variable turns it on

    starved = RANK == 1 and not os.path.exists(os.path.join(WORK, "gate-data-1"))
    model = prepare_model(torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(3):
        if starved and number == 2:
            gate("data").read(1)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    step("trained")


if __name__ == "__main__":
    ray.init(
        "local",  # there may be another cluster on this machine
        num_cpus=2,
        object_store_memory=80_000_000,
        include_dashboard=False,
        _temp_dir=os.path.join(WORK, "ray"),
    )
    TorchTrainer(
        train,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            storage_path=os.path.join(WORK, "results"),
            failure_config=FailureConfig(max_failures=1),
        ),
    ).fit()
    os._exit(0)  # Ray's own end takes seconds
