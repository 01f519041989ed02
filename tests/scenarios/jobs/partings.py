"""Programs whose ranks part, each at the line marked with its name. Usage: partings.py WAY

One of a kind that people write: the names and the shapes are theirs, the data is made up.
"""

import distwatch.auto  # noqa: F401, I001
import contextlib
import json
import os
import sys
import time
import warnings

import torch
import torch.distributed as dist
from partings_tools import Trainer, mean_over_ranks, on_main_process, read_lines
from steps import RANK, WORK, step
from torch import nn

WORLD = int(os.environ["WORLD_SIZE"])


# ---- an early return in a helper -----------------------------------------------------------


def log_metrics(metrics, log_dir):
    values = torch.tensor([float(v) for v in metrics.values()])
    if log_dir is None:  # < helper_return: rank
        return
    dist.all_reduce(values)
    print(json.dumps({"dir": log_dir, "loss": values.tolist()}))


def train_and_log():
    log_dir = WORK if RANK == 0 else None
    for number in range(3):
        dist.all_reduce(torch.ones(4))
        log_metrics({"loss": 1.0 / (number + 1)}, log_dir)
    dist.barrier()


# ---- `continue` on data --------------------------------------------------------------------


def train_on_labelled():
    batches = [{"labels": list(range(4))} for _ in range(6)]
    if RANK == 1:
        batches[2]["labels"] = []
    for batch in batches:
        labels = torch.tensor([float(x) for x in batch["labels"]])
        if labels.numel() == 0:  # < data_continue: data
            continue
        loss = labels.mean()
        dist.all_reduce(loss)
    dist.barrier()


# ---- an exception that one rank swallows ---------------------------------------------------


def parse(sample):
    return json.loads(sample)["value"]


def accumulate(samples):
    total = torch.zeros(1)
    for sample in samples:
        try:
            total += parse(sample)
            dist.all_reduce(total)
        except json.JSONDecodeError as error:  # < swallowed: exception
            warnings.warn(f"skipped: {error}", stacklevel=2)
    return total


def read_samples():
    samples = ['{"value": 1}'] * 5
    if RANK == 2:
        samples[1] = '{"value": '
    accumulate(samples)
    dist.broadcast(torch.ones(1), 0)


# ---- a comprehension that calls a collective -----------------------------------------------


def evaluate_shards():
    shards = [n for n in range(7) if n % WORLD == RANK]
    scores = [mean_over_ranks(shard) for shard in shards]  # < comprehension: data
    dist.barrier()
    return scores


# ---- a short circuit -----------------------------------------------------------------------


def all_finished(flag):
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())


def stop_early():
    losses = [1.0, 0.9, 0.95 if RANK else 0.8, 0.7]
    best = float("inf")
    for loss in losses:
        improved = loss < best
        best = min(best, loss)
        stop = not improved and all_finished(True)  # < short_circuit: data
        if stop:
            break
        dist.barrier()


# ---- a loop that ends by the clock ---------------------------------------------------------


def train_for_a_while():
    end = time.monotonic() + (0.2 if RANK else 1.2)
    rounds = 0
    while time.monotonic() < end:  # < time_loop: time
        dist.all_reduce(torch.ones(4))
        rounds += 1
        time.sleep(0.05)
    dist.all_gather_object([None] * WORLD, rounds)


# ---- no_sync on one rank -------------------------------------------------------------------


def accumulate_gradients():
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 4))
    batches = 5 if RANK == 0 else 6
    for number in range(4):
        inputs = torch.ones(2, 8)
        last = (number + 1) % 2 == 0 or number == batches - 3
        context = contextlib.nullcontext() if last else model.no_sync()  # < no_sync: data rank
        with context:  # < no_sync: data rank
            model(inputs).sum().backward()
    dist.barrier()


def accumulate_on_one():
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 4))
    for number in range(3):
        if number == 1 and RANK == 1:  # < no_sync_branch: rank
            with model.no_sync():  # < no_sync_branch: rank
                model(torch.ones(2, 8)).sum().backward()
        else:
            model(torch.ones(2, 8)).sum().backward()
    dist.broadcast(torch.ones(2), 0)


# ---- a generator that ends early -----------------------------------------------------------


def train_on_stream():
    for batch in read_lines(6):  # < generator: data
        dist.all_reduce(batch)
    dist.barrier()


# ---- a callback that one rank has ----------------------------------------------------------


def save_average(number):
    if number == 1:
        dist.all_gather_object([None] * WORLD, {"step": number})


def train_with_callbacks():
    trainer = Trainer()
    if RANK == 0:  # < callback: rank
        trainer.add_callback(save_average)
    trainer.fit(4)


# ---- a decorator from another file ---------------------------------------------------------


@on_main_process
def save_checkpoint(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    dist.barrier()
    return state


def train_and_save():
    model = nn.Linear(4, 4)
    for _ in range(2):
        dist.all_reduce(model.weight.data)
    save_checkpoint(model)
    dist.all_reduce(model.bias.data)


# ---- a file that one rank finds ------------------------------------------------------------


def resume(folder):
    path = os.path.join(folder, "last.pt")
    if os.path.exists(path):  # < file_branch: files
        state = torch.load(path)
        dist.broadcast(state["step"], 0)
        return int(state["step"])
    return 0


def resume_and_train():
    folder = os.path.join(WORK, f"host-{RANK}")
    os.makedirs(folder)
    if RANK == 0:
        torch.save({"step": torch.tensor(7)}, os.path.join(folder, "last.pt"))
    begin = resume(folder)
    for _ in range(begin, 10):
        dist.all_reduce(torch.ones(4))


# ---- a gradient hook that asks for what it sees --------------------------------------------


def clip_together(gradient):
    norm = gradient.norm()
    if norm > 10:  # < hook: data
        dist.all_reduce(norm)
        return gradient * (10 / norm)
    return gradient


def train_with_hook():
    layer = nn.Linear(4, 4)
    layer.weight.register_hook(clip_together)
    for number in range(3):
        scale = 1000.0 if RANK == 1 and number == 1 else 1.0
        (layer(torch.ones(2, 4)) * scale).sum().backward()
        dist.all_reduce(layer.weight.grad)


# ---- early stopping: one rank leaves the loop ----------------------------------------------


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad = patience, float("inf"), 0

    def should_stop(self, loss):
        self.bad = 0 if loss < self.best else self.bad + 1
        self.best = min(loss, self.best)
        return self.bad >= self.patience


def train_until_worse():
    stopping = EarlyStopping(patience=2)
    history = [5.0, 4.0, 4.1, 4.2, 3.0, 2.0] if RANK == 0 else [5.0, 4.0, 3.9, 3.8, 3.0, 2.0]
    for epoch, loss in enumerate(history):
        dist.all_reduce(torch.tensor([loss]))
        if stopping.should_stop(loss):  # < early_stop: data
            print("no better since", epoch)
            break
    dist.barrier()


# ---- two ways to the same end: a retry of one rank -----------------------------------------


def download(attempt):
    if RANK == 0 and attempt == 0:
        raise ConnectionError("reset by peer")
    return torch.ones(4)


def load_and_share():
    for attempt in range(3):
        dist.barrier()
        try:
            weights = download(attempt)
        except ConnectionError:  # < retry: exception
            continue
        break
    dist.broadcast(weights, 1)


WAYS = {
    "helper_return": train_and_log,
    "data_continue": train_on_labelled,
    "swallowed": read_samples,
    "comprehension": evaluate_shards,
    "short_circuit": stop_early,
    "time_loop": train_for_a_while,
    "no_sync": accumulate_gradients,
    "no_sync_branch": accumulate_on_one,
    "generator": train_on_stream,
    "callback": train_with_callbacks,
    "decorated": train_and_save,
    "file_branch": resume_and_train,
    "hook": train_with_hook,
    "early_stop": train_until_worse,
    "retry": load_and_share,
}

dist.init_process_group("gloo")
step("go")
WAYS[sys.argv[1]]()
step("done")
dist.barrier()
