"""Streams and batches by which ranks part."""

import asyncio

import torch
import torch.distributed as dist
from steps import RANK

# ---- an iterator that ends early on one rank -----------------------------------------------


class Shards:
    def __init__(self, names):
        self.names = list(names)
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= len(self.names):
            raise StopIteration
        self.position += 1
        return torch.ones(8)


def iterator_ends():
    stream = Shards(["a", "b", "c"] if RANK == 1 else ["a", "b", "c", "d"])
    while True:
        batch = next(stream, None)
        if batch is None:  # < iterator_ends: data
            break
        dist.all_reduce(batch)
    dist.barrier()


# ---- a budget of tokens --------------------------------------------------------------------


def take(budget, used, lengths):
    for length in lengths:
        if (left := budget - used) <= 0:  # < walrus_budget: data
            return used
        used += min(left, length)
        dist.all_reduce(torch.tensor([float(used)]))
    return used


def walrus_budget():
    lengths = [600, 600, 100, 100] if RANK == 1 else [300, 300, 300, 100]
    used = take(1000, 0, lengths)
    dist.all_gather_object([None] * dist.get_world_size(), used)


# ---- a context that swallows a bad batch ---------------------------------------------------


class SkipBadBatch:
    def __init__(self):
        self.skipped = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and issubclass(kind, ValueError):
            self.skipped += 1
            return True
        return False


def decode(sample):
    if sample < 0:
        raise ValueError(f"negative token {sample}")
    return torch.tensor([float(sample)])


def suppressing_with():
    samples = [1, 2, -3, 4] if RANK == 2 else [1, 2, 3, 4]
    skipping = SkipBadBatch()
    for sample in samples:
        with skipping:  # < suppressing_with: exception
            tokens = decode(sample)
            dist.all_reduce(tokens)
    dist.barrier()


# ---- asynchronous data ---------------------------------------------------------------------


async def stream(count):
    for number in range(count):
        await asyncio.sleep(0)
        yield torch.full((8,), float(number))


async def train(count):
    async for batch in stream(count):  # < async_steps: data rank
        dist.all_reduce(batch)
    await finish()


async def finish():
    await asyncio.sleep(0)
    dist.barrier()


def async_steps():
    asyncio.run(train(5 if RANK == 0 else 4))


# ---- the order of a set --------------------------------------------------------------------

NAMES = ["embed", "norm", "query", "key", "value", "output", "gate", "up", "down", "head"]


def changed(parameters):
    return {name for name, value in parameters.items() if value.any()}


def set_order():
    parameters = {name: torch.ones(place + 3) for place, name in enumerate(NAMES)}
    dist.barrier()
    for name in changed(parameters):  # < set_order: data randomness
        dist.all_reduce(parameters[name])
    dist.barrier()


# ---- two sizes of a batch at the end -------------------------------------------------------


def collate(rows):
    return torch.stack(rows)


def last_batch():
    rows = [torch.ones(4) for _ in range(7 if RANK == 0 else 8)]  # < last_batch: rank data
    batches = [rows[:4], rows[4:]]
    for batch in batches:
        features = collate(batch)
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features)
    dist.barrier()


DATA = {
    "iterator_ends": iterator_ends,
    "walrus_budget": walrus_budget,
    "suppressing_with": suppressing_with,
    "async_steps": async_steps,
    "set_order": set_order,
    "last_batch": last_batch,
}
