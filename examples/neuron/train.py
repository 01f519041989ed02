"""neuronx-distributed's tensor groups, on CPUs with its own switch, or on Neuron devices.

    NXD_CPU_MODE=1 distwatch run -- torchrun --nproc-per-node=4 examples/neuron/train.py [--early]

Without the package, its double does: PYTHONPATH=tests/doubles/neuronx. With `--early`, the layer asks for its
group before anything has built it.
"""

import argparse

import torch
import torch.distributed as dist
from neuronx_distributed.parallel_layers import parallel_state

import distwatch


class RowParallel(torch.nn.Module):
    """A part of a linear layer on each rank; the parts are added up over the tensor group."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.group = parallel_state.get_tensor_model_parallel_group()
        self.part = torch.nn.Linear(inputs // dist.get_world_size(self.group), outputs, bias=False)

    def forward(self, part: torch.Tensor) -> torch.Tensor:
        total = self.part(part)
        dist.all_reduce(total, group=self.group)
        return total


def main(early: bool) -> None:
    if not early:
        distwatch.initialize("gloo", framework="neuron", tensor=2)
    layer = RowParallel(8, 4)
    print(f"rank {dist.get_rank()}: {tuple(layer(torch.ones(2, 4)).shape)}", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("--early", action="store_true")
main(parser.parse_args().early)
