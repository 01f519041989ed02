"""Evaluation, logging and saving whose ranks part."""

import functools
import logging
from pathlib import Path

import torch
import torch.distributed as dist
from steps import RANK, WORK

# ---- a metric that asks all ranks, on rank zero --------------------------------------------


class Accuracy:
    def __init__(self):
        self.correct = torch.zeros(1)
        self.total = torch.zeros(1)

    def update(self, predictions, targets):
        self.correct += (predictions == targets).sum()
        self.total += targets.numel()

    def compute(self):
        both = torch.cat([self.correct, self.total])
        dist.all_reduce(both)
        return float(both[0] / both[1])


def evaluate(batches):
    metric = Accuracy()
    for predictions, targets in batches:
        metric.update(predictions, targets)
    return metric.compute()


def metric_compute():
    batches = [(torch.ones(4), torch.ones(4))] * 3
    for epoch in range(2):
        dist.all_reduce(torch.ones(16))
        if dist.get_rank() == 0:  # < metric_compute: rank
            print(epoch, evaluate(batches))
        dist.barrier()


# ---- a checkpoint that one rank finds ------------------------------------------------------


class Checkpointer:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def latest(self):
        found = sorted(self.folder.glob("step-*.pt"))
        return int(found[-1].stem.split("-")[1]) if found else 0  # < resume_ckpt: files data


def resume_ckpt():
    folder = Path(WORK, f"node-{RANK}")
    checkpointer = Checkpointer(folder)
    if RANK == 0:
        torch.save({}, folder / "step-3.pt")
    first = checkpointer.latest()
    for _ in range(first, 6):  # < resume_ckpt: files data
        dist.all_reduce(torch.ones(8))
    dist.barrier()


# ---- hooks in a list, one of them only where it is verbose ---------------------------------


def gather_statistics(state):
    dist.all_gather_object([None] * dist.get_world_size(), state["loss"])


def hooks_for(verbose):
    hooks = [lambda state: state.update(seen=True)]
    if verbose:  # < hook_list: rank data
        hooks.append(lambda state: gather_statistics(state))
    return hooks


def hook_list():
    hooks = hooks_for(verbose=RANK == 0)
    for number in range(3):
        state = {"loss": 1.0 / (number + 1)}
        dist.all_reduce(torch.ones(8))
        for hook in hooks:  # < hook_list: rank data
            hook(state)


# ---- a handler of logging that gathers -----------------------------------------------------


class GatheringHandler(logging.Handler):
    def emit(self, record):
        texts = [None] * dist.get_world_size()
        dist.all_gather_object(texts, self.format(record))


def configure_logging():
    logger = logging.getLogger("train")
    logger.addHandler(GatheringHandler())
    logger.propagate = False
    logger.setLevel(logging.INFO if RANK == 0 else logging.WARNING)  # < rank_zero_logger: rank
    return logger


def rank_zero_logger():
    logger = configure_logging()
    for number in range(3):
        dist.all_reduce(torch.ones(8))
        if number == 1:
            logger.info("step %d", number)
    dist.barrier()


# ---- who saves, from a table by rank -------------------------------------------------------


def save_all():
    parts = [torch.zeros(4) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, torch.ones(4))


def wait_for_saver():
    dist.barrier()


def dict_dispatch():
    for number in range(3):
        dist.all_reduce(torch.ones(8))
        if number == 2:
            {0: save_all, 1: wait_for_saver}[RANK]()  # < dict_dispatch: rank


# ---- a statistic that is computed once for each size ---------------------------------------


@functools.lru_cache(maxsize=32)  # < lru_cached: data
def scale_for(size):  # < lru_cached: data
    sizes = torch.tensor([float(size)])
    dist.all_reduce(sizes)
    return float(sizes)


def lru_cached():
    sizes = [8, 8, 16, 16] if RANK == 1 else [8, 16, 16, 16]
    for size in sizes:
        scale = scale_for(size)  # < lru_cached: data
        dist.broadcast(torch.ones(4) * scale, 0)


# ---- a vote that stops at the first no -----------------------------------------------------


def layer_is_finite(layer):
    votes = torch.isfinite(layer).all().float()
    dist.all_reduce(votes.clone())
    return bool(votes)


def all_finite():
    layers = [torch.ones(4) for _ in range(4)]
    if RANK == 1:
        layers[1][0] = float("nan")
    dist.barrier()
    healthy = all(map(layer_is_finite, layers))  # < all_finite: data
    dist.broadcast(torch.tensor([float(healthy)]), 0)


EVALUATION = {
    "metric_compute": metric_compute,
    "resume_ckpt": resume_ckpt,
    "hook_list": hook_list,
    "rank_zero_logger": rank_zero_logger,
    "dict_dispatch": dict_dispatch,
    "lru_cached": lru_cached,
    "all_finite": all_finite,
}
