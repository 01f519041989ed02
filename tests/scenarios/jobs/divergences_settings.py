"""Settings, and roles by which ranks part."""

import argparse
import functools
import os
import random

import torch
import torch.distributed as dist
from steps import RANK

# ---- a coin that each rank tosses for itself -----------------------------------------------


def penalty(weights):
    norms = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(norms, weights.norm().reshape(1))
    return sum(norms)


def coin_flip():
    random.seed([11, 11, 4][RANK])  # as each process would seed itself
    for _ in range(4):
        weights = torch.ones(4)
        if random.random() < 0.5:  # < coin_flip: randomness
            weights *= penalty(weights)
        dist.all_reduce(weights)


# ---- phases --------------------------------------------------------------------------------


def match_phase():
    for number in range(4):
        weights = torch.ones(4)
        match (RANK, number):  # < match_phase: rank
            case (_, 0):
                dist.broadcast(weights, 0)
            case (2, 2):  # < match_phase: rank
                dist.reduce(weights, 2)
            case _:
                dist.all_reduce(weights)


# ---- a reduction that is chosen ------------------------------------------------------------


class Config:
    def __init__(self):
        self.local_sgd = RANK == 1


def identity(tensor):
    return tensor


def ternary_reduce():
    config = Config()
    for number in range(3):
        dist.broadcast(torch.ones(4), 0)
        gradient = torch.ones(8) * number
        sync = identity if config.local_sgd else dist.all_reduce  # < ternary_reduce: rank data
        sync(gradient)


class Optimizer:
    def __init__(self, stage):
        if stage < 2:  # < partial_reduce: environment data
            self.sync = functools.partial(dist.all_reduce, op=dist.ReduceOp.SUM)
        else:
            self.sync = functools.partial(dist.reduce, dst=0)

    def step(self, gradients):
        for gradient in gradients:
            self.sync(gradient)


def partial_reduce():
    os.environ["ZERO_STAGE"] = str(RANK + 1)  # two hosts with two files of settings
    dist.barrier()
    optimizer = Optimizer(int(os.environ.get("ZERO_STAGE", "1")))
    optimizer.step([torch.ones(8), torch.ones(4)])


# ---- an environment that differs -----------------------------------------------------------


class BatchStatistics:
    def __init__(self):
        self.synchronized = os.getenv("SYNC_STATISTICS", "0") == "1"
        self.mean = torch.zeros(4)

    def update(self, batch):
        self.mean = batch.mean(0)
        if self.synchronized:  # < env_switch: environment
            dist.all_reduce(self.mean)


def env_switch():
    if RANK == 1:
        os.environ["SYNC_STATISTICS"] = "1"  # the profile of its host
    statistics = BatchStatistics()
    for _ in range(3):
        statistics.update(torch.ones(8, 4))
        dist.barrier()


# ---- a default that depends on the rank ----------------------------------------------------


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--eval-every", type=int, default=2 if RANK == 0 else 3)
    return parser.parse_args([])


def validate():
    scores = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(scores, torch.ones(1))


def argparse_default():
    args = parse_arguments()
    for number in range(1, 7):
        dist.all_reduce(torch.ones(8))
        if number % args.eval_every == 0:  # < argparse_default: rank data environment
            validate()


SETTINGS = {
    "coin_flip": coin_flip,
    "match_phase": match_phase,
    "ternary_reduce": ternary_reduce,
    "partial_reduce": partial_reduce,
    "env_switch": env_switch,
    "argparse_default": argparse_default,
}
