"""What the compiled call record adds to one collective in a hot loop: nanoseconds, the least of many loops.

    python benchmarks/call_record_cost.py [--rounds 2000]

A group that C++ calls too is asked for its number at each call, any other is counted: both are measured.
The call goes the way of `dist.all_reduce`: from a line of the user's through two functions of torch's into the
observed method, with a real tensor and the sequence number of a real gloo group. Only the method itself does
nothing, so what is left is the record. The least of many short loops on one core, in turn, is what the record
costs; anything above is the machine's. In a job it costs more, since its code is cold: collective_cost.py.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from distwatch.agent._calls import CallRecord
from distwatch.state.pulse import SLOT

CALLS = 200
SLOTS = 128


nothing = "".format
"""Stands for the original method: it takes its arguments as a tuple, as pybind11's do, and does nothing."""


def inner(call: Callable[..., None], group: Any, tensors: list[Any], options: Any) -> None:
    call(group, tensors, options)


def outer(call: Callable[..., None], group: Any, tensors: list[Any], options: Any) -> None:
    inner(call, group, tensors, options)


def loop(call: Callable[..., None], group: Any, tensors: list[Any], options: Any) -> float:
    """Nanoseconds of one call."""
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        outer(call, group, tensors, options)
    return (time.perf_counter_ns() - began) / CALLS


class Observed:
    """The method, recorded by a record that knows all of such a call."""

    def __init__(self, group: Any, tensor: Any, number: Callable[[Any], int]) -> None:
        """Asks `number` for the group's number."""
        self.missed: list[str] = []
        self._record = record = CallRecord(
            lambda name, *_: self.missed.append(name),
            lambda *_: None,
            lambda error: self.missed.append(str(error)),
            threading.get_ident(),
        )
        self.call, known = record.observe("allreduce", nothing, False, True)
        record.attach(mmap.mmap(-1, SLOTS * SLOT.size), 0, SLOTS, 0)
        known.know_op(1)
        record.know_group(group, "0", 2, number, 0, 0)
        record.know_dtype(tensor.dtype, 3)
        exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # since torch 2.10
        record.know_tensors(torch.Tensor, torch.Tensor.dtype, torch.Tensor.numel, exchange)
        for code, library in ((outer, True), (inner, True), (loop, False), (measure, False)):
            record.know_code(code.__code__, library)
        site = call_site(self.call, group, [tensor])
        record.know_site(loop.__code__, site[0], measure.__code__, site[1], 0, 1)
        self.missed.clear()

    def agree(self) -> None:
        """The flight recorder says the same as what was counted."""
        counted = self._record.numbers()["0"]
        self._record.agree("0", counted, counted)


def call_site(function: Callable[..., None], group: Any, tensors: list[Any]) -> tuple[int, int]:
    """The instructions at which `loop` and `measure` stand while a call is made."""
    import sys

    found: list[tuple[int, int]] = []

    def look(*_: Any) -> None:
        frame = sys._getframe(3)
        assert frame.f_code is loop.__code__
        assert frame.f_back is not None
        found.append((frame.f_lasti, frame.f_back.f_lasti))

    measure([look], group, tensors, 1)
    return found[0]


def measure(
    calls: list[Callable[..., None]],
    group: Any,
    tensors: list[Any],
    rounds: int,
    between: Callable[[], None] = lambda: None,
) -> list[float]:
    """The least time of each, measured in turn."""
    least = [float("inf")] * len(calls)
    for _ in range(rounds):
        between()
        for place, call in enumerate(calls):
            least[place] = min(least[place], loop(call, group, tensors, None))
    return least


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=2000)
    rounds = options.parse_args().rounds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        group, tensor = dist.group.WORLD, torch.ones(4)
        number: Any = type(group)._get_sequence_number_for_group
        numbers = itertools.count()
        asked = Observed(group, tensor, number)
        counted = Observed(group, tensor, lambda group: next(numbers))
        ways = [nothing, asked.call, counted.call]
        bare, *recorded = measure(ways, group, [tensor], rounds, counted.agree)
        parts = {
            "the group's number alone": lambda: number(group),
            "dtype and numel() alone": lambda: (tensor.dtype, tensor.numel()),
        }
        print(f"without the record: {bare:.0f} ns")
        for way, took in zip(("asked for its number", "counted"), recorded, strict=True):
            print(f"a group that is {way}: +{took - bare:.0f} ns")
        for name, part in parts.items():
            print(f"{name}, from Python: {least(part, rounds):.0f} ns")
        print(f"calls that went through Python: {len(asked.missed) + len(counted.missed)}")
        dist.destroy_process_group()


def least(part: Callable[[], object], rounds: int) -> float:
    """Nanoseconds of one call, without the empty function around it."""
    return once(part, rounds) - once(lambda: None, rounds)


def once(part: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            part()
        found.append((time.perf_counter_ns() - began) / CALLS)
    return min(found)


if __name__ == "__main__":
    main()
