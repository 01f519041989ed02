"""Training loops whose ranks part."""

import functools
import time

import torch
import torch.distributed as dist
from steps import RANK
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset, TensorDataset

# ---- early stop by the loss of each rank ---------------------------------------------------


class Plateau:
    def __init__(self, patience):
        self.patience = patience
        self.left = patience
        self.best = float("inf")

    def update(self, loss):
        if loss < self.best:
            self.best = loss
            self.left = self.patience
        else:
            self.left -= 1


def validation_losses():
    worse = [1.0, 1.1, 1.2, 1.3]
    better = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    return iter(worse if RANK == 2 else better)


def train_until_plateau():
    plateau = Plateau(patience=2)
    losses = validation_losses()
    epoch = 0
    while epoch < 5:
        weights = torch.ones(16)
        dist.all_reduce(weights)
        plateau.update(next(losses))
        if plateau.left == 0:  # < loss_stop: data
            return epoch
        epoch += 1
    return epoch


def loss_stop():
    train_until_plateau()
    dist.barrier()


# ---- out of memory in one rank's forward ---------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, tokens):
        if tokens.shape[0] > 32:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.proj(tokens)


def oom_skip():
    model = DistributedDataParallel(Attention())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lengths = [8, 16, 64, 8, 8] if RANK == 1 else [8, 16, 32, 8, 8]
    for length in lengths:
        optimizer.zero_grad()
        try:
            loss = model(torch.randn(length, 8)).sum()
            loss.backward()
        except RuntimeError as error:  # < oom_skip: exception
            if "out of memory" in str(error):  # < oom_skip: exception
                print("skipping a batch of", length)
                continue
            raise
        optimizer.step()
    dist.barrier()


# ---- a loop that ends by a budget of wall time ---------------------------------------------


class Budget:
    def __init__(self, seconds, started):
        self.seconds = seconds
        self.started = started

    @property
    def spent(self):
        return time.time() - self.started

    @property
    def exhausted(self):
        return self.spent > self.seconds


def clock_epoch():
    started = time.time()
    if RANK == 1:
        started -= 100  # its data came from a slow disk
    budget = Budget(90, started)
    for _ in range(4):
        dist.all_reduce(torch.ones(8))
        if budget.exhausted:  # < clock_epoch: time
            break
    dist.all_gather_object([None] * dist.get_world_size(), budget.spent)


# ---- shards of different lengths -----------------------------------------------------------


def shard_of(dataset):
    world = dist.get_world_size()
    return Subset(dataset, range(RANK, len(dataset), world))


def uneven_shards():
    dataset = TensorDataset(torch.randn(26, 8), torch.randn(26, 1))
    loader = DataLoader(shard_of(dataset), batch_size=4)
    model = DistributedDataParallel(nn.Linear(8, 1))
    for _ in range(2):
        for inputs, targets in loader:  # < uneven_shards: data rank
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
    dist.barrier()


# ---- a Trainer with callbacks that may stop it ---------------------------------------------


class Callback:
    def on_step_end(self, trainer):
        pass


class MaxTokens(Callback):
    def __init__(self, limit):
        self.limit = limit
        self.seen = 0

    def on_step_end(self, trainer):
        self.seen += trainer.batch_tokens
        if self.seen >= self.limit:  # < max_steps: data rank
            trainer.should_stop = True


class Trainer:
    def __init__(self, batch_tokens, callbacks):
        self.batch_tokens = batch_tokens
        self.callbacks = callbacks
        self.should_stop = False
        self.global_step = 0

    def call(self, event):
        for callback in self.callbacks:
            getattr(callback, event)(self)

    def fit(self):
        while not self.should_stop:  # < max_steps: data rank
            self.training_step()
            self.global_step += 1
            self.call("on_step_end")

    def training_step(self):
        gradient = torch.ones(32)
        dist.all_reduce(gradient)


def max_steps():
    trainer = Trainer(64 if RANK == 0 else 48, [Callback(), MaxTokens(256)])
    trainer.fit()
    dist.barrier()


# ---- accumulation with another number of micro batches on one rank -------------------------


class AccumulationPlan:
    def __init__(self, every):
        self.every = every

    def closes(self, index):
        return (index + 1) % self.every == 0


def accumulate_tail():
    model = DistributedDataParallel(nn.Linear(8, 8))
    plan = AccumulationPlan(every=2 if RANK == 0 else 3)
    for index in range(6):
        model.require_backward_grad_sync = plan.closes(index)  # < accumulate_tail: data rank
        model(torch.ones(2, 8)).sum().backward()
    dist.barrier()


# ---- a recursion that is deeper on one rank ------------------------------------------------


def reduce_range(values, low, high):
    dist.all_reduce(values[low:high].clone().sum())
    if high - low <= 1:  # < recursion: data rank
        return
    middle = (low + high) // 2
    reduce_range(values, low, middle)


def recursion():
    values = torch.arange(16.0)
    reduce_range(values, 0, 4 if RANK == 0 else 8)
    dist.barrier()


# ---- a step that is tried again ------------------------------------------------------------


def retry(times):
    def decorate(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            for attempt in range(times):
                try:
                    return function(*args, **kwargs)
                except OSError as error:  # < decorated_method: exception
                    print(f"attempt {attempt}: {error}")
            raise RuntimeError("no attempt came through")

        return inner

    return decorate


class Uploader:
    def __init__(self):
        self.failures = [ConnectionResetError("reset by peer")] if RANK == 1 else []

    @retry(times=3)
    def publish(self, number):
        dist.barrier()
        if self.failures:
            raise self.failures.pop()
        return number


def decorated_method():
    uploader = Uploader()
    for number in range(2):
        uploader.publish(number)
        dist.all_reduce(torch.ones(4))


TRAINING = {
    "loss_stop": loss_stop,
    "oom_skip": oom_skip,
    "clock_epoch": clock_epoch,
    "uneven_shards": uneven_shards,
    "max_steps": max_steps,
    "accumulate_tail": accumulate_tail,
    "recursion": recursion,
    "decorated_method": decorated_method,
}
