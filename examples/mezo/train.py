"""MeZO: the gradient from two forward passes, with and against one random direction, on every rank.

    distwatch run --deadlines collective=20 -- torchrun --nproc-per-node=2 examples/mezo/train.py [--skip]

Each rank has its own data; the ranks share one number a step, the difference of the two losses. With
`--skip`, rank 1 leaves out a step whose loss is not finite, and with it the exchange of that number.
"""

import argparse

import torch
import torch.distributed as dist

import distwatch

STEPS, SCALE, RATE = 6, 1e-3, 1e-2


def shift(model: torch.nn.Module, seed: int, scale: float) -> None:
    """Moves all weights along the direction of that seed, which is never stored."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=scale)


def loss_of(model: torch.nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(inputs) - inputs.sum(1, keepdim=True)).square().mean())


def step(model: torch.nn.Module, inputs: torch.Tensor, seed: int, skips: bool) -> float:
    """One step; the mean of the ranks' loss differences, or nan for a rank that leaves it out."""
    shift(model, seed, SCALE)
    plus = loss_of(model, inputs)
    shift(model, seed, -2 * SCALE)
    minus = loss_of(model, inputs)
    shift(model, seed, SCALE)
    slope = torch.tensor([(plus - minus) / (2 * SCALE)])
    if skips and not torch.isfinite(slope):
        return float("nan")
    dist.all_reduce(slope)
    slope /= dist.get_world_size()
    shift(model, seed, -RATE * slope.item())
    return slope.item()


def main(skip: bool) -> None:
    world = distwatch.initialize("gloo")
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    torch.manual_seed(100 + world.rank)
    batches = torch.randn(STEPS, 16, 8)
    if skip and world.rank == 1:
        batches[3, 0, 0] = float("inf")
    for number, inputs in enumerate(batches):
        distwatch.step(number)
        step(model, inputs, seed=number, skips=skip)
    print(f"rank {world.rank} has made {STEPS} steps", flush=True)
    dist.barrier()


parser = argparse.ArgumentParser()
parser.add_argument("--skip", action="store_true")
main(parser.parse_args().skip)
