"""What the hooks cost one gloo all_reduce of two ranks: call by call, with and without them.

Four groups of the same ranks take turns in an order that all ranks draw alike: one is called through the hooked
method, two through the original one, and the difference of those two is how much this machine differs from itself.
The fourth is a bare one with torch's own checks, TORCH_DISTRIBUTED_DEBUG=DETAIL, for what a peer costs.
So each call comes after others, with its code out of the caches, as in a job; blocks of hundreds of calls, one after
the other, cost less and differ by more on a machine that is busy. The calls go the way of `dist.all_reduce`.
Each group is the hooked one in one of three runs, as a group whose threads the scheduler has placed badly is slow.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from statistics import median
from typing import Any

from paired_blocks import launch, stay_on_one_core

GROUPS = 3
"""Without the one of torch's checks."""
WARM = 1500
"""Rounds that are not timed: the agent's thread beats in them, and the hooked group is counted from then on."""


def inner(method: Any, group: Any, tensor: Any, options: Any) -> Any:
    return method(group, [tensor], options)


def outer(method: Any, group: Any, tensor: Any, options: Any) -> Any:
    return inner(method, group, tensor, options)


def methods() -> tuple[Any, Any]:
    """ProcessGroup's method without the hook, and with it."""
    from torch.distributed import ProcessGroup

    from distwatch.integrations import registry
    from distwatch.settings import read_settings

    registry.undo_all()
    original = vars(ProcessGroup)["allreduce"].__func__
    registry.arm(read_settings())
    hooked = vars(ProcessGroup)["allreduce"].__func__
    assert hooked is not original
    return original, hooked


def measure(arguments: argparse.Namespace) -> None:
    """Runs in each rank; rank 0 prints."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    if arguments.pin:
        stay_on_one_core(dist.get_rank())
    original, hooked = methods()
    at = arguments.place
    ways = [(hooked if place == at else original, place) for place in range(GROUPS)]
    groups = [dist.new_group() for _ in ways]
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    groups.append(dist.new_group())
    dist.set_debug_level(dist.DebugLevel.OFF)
    ways.append((original, GROUPS))
    options = dist.AllreduceOptions()
    options.asyncOp = False
    tensor, drawn, now = torch.ones(arguments.numel), random.Random(0), time.perf_counter_ns
    begun: list[list[int]] = [[] for _ in ways]
    ended: list[list[int]] = [[] for _ in ways]
    for number in range(WARM + arguments.rounds):
        drawn.shuffle(ways)
        for method, place in ways:
            began = now()
            work = outer(method, groups[place], tensor, options)
            returned = now()
            work.wait()
            if number >= WARM:
                ended[place].append(now() - began)
                begun[place].append(returned - began)
    if dist.get_rank() == 0:
        report("until the call returns", begun, at)
        report("until the result is there", ended, at)
    dist.destroy_process_group()


def report(what: str, times: list[list[int]], at: int) -> None:
    """Prints medians in microseconds; the last times are of the group with torch's checks."""
    *medians, checked = [median(each) / 1000 for each in times]
    hooked = medians.pop(at)
    bare, control = medians
    base = (bare + control) / 2
    print(
        f"{what}: {base:.2f} us without hooks, with them {hooked - base:+.2f} us"
        f" ({(hooked - base) / base:+.2%}); the two without differ by {abs(control - bare):.2f} us"
        f" ({abs(control - bare) / base:.2%}); with DETAIL {checked - base:+.2f} us ({(checked - base) / base:+.2%})",
        flush=True,
    )


def main() -> None:
    """Launches itself, or measures where it has been launched."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--rounds", type=int, default=8000)
    options.add_argument("--numel", type=int, default=1)
    options.add_argument("--pin", action="store_true", help="each rank on one core")
    options.add_argument("--observer", default="auto", choices=("auto", "off"))
    options.add_argument("--place", type=int, default=0, help=argparse.SUPPRESS)
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.inside:
        import distwatch.auto  # noqa: F401

        measure(arguments)
    else:
        for place in range(GROUPS):
            given = [*sys.argv[1:], "--place", str(place)]
            if code := launch(__file__, arguments.ranks, given, arguments.observer):
                sys.exit(code)


if __name__ == "__main__":
    main()
