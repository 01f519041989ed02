"""What the programs of `partings.py` share, as a project's own second file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from steps import RANK


def on_main_process(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if dist.get_rank() == 0:  # < decorated: rank
            return function(*args, **kwargs)
        return None

    return wrapper


class Trainer:
    """A loop with callbacks, as many projects have their own."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[int], None]] = []

    def add_callback(self, callback: Callable[[int], None]) -> None:
        self.callbacks.append(callback)

    def fit(self, steps: int) -> None:
        for number in range(steps):
            dist.all_reduce(torch.ones(4))
            self.after_step(number)

    def after_step(self, number: int) -> None:
        for callback in self.callbacks:  # < callback: rank
            callback(number)


def read_lines(count: int) -> Iterator[torch.Tensor]:
    """A worker's share of a stream; a damaged record ends it."""
    for number in range(count):
        record = b"" if RANK == 1 and number == 3 else b"text"
        if not record:  # < generator: data
            return
        yield torch.ones(4)


def mean_over_ranks(value: float) -> float:
    total = torch.tensor([value])
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
