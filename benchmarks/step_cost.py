"""What the hooks cost a training step of DDP, FSDP2 and Megatron on gloo, two ranks, with and without them.

    python benchmarks/step_cost.py [--pairs 20] [KIND…]

Also told: the agent's thread's share of a core over the whole run, and what a rank has on /dev/shm.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

from paired_blocks import hooked_or_not, launch, median_of, pair_of, report, stay_on_one_core


def layers() -> Any:
    """Some 12 ms a step on one core."""
    from torch import nn

    return nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(6)))


def ddp_step() -> Callable[[], None]:
    """All gradients are reduced by C++, and each step's loss from Python."""
    from torch.nn.parallel import DistributedDataParallel

    return step_of(DistributedDataParallel(layers()))


def fsdp2_step() -> Callable[[], None]:
    """Each layer is gathered twice and its gradients scattered, all of it from Python."""
    from torch.distributed.fsdp import fully_shard

    model = layers()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return step_of(model)


def step_of(model: Any) -> Callable[[], None]:
    """One step of it, as a training loop makes it."""
    import torch
    import torch.distributed as dist

    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    batch = torch.ones(64, 512)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        told = loss.detach()
        dist.all_reduce(told)

    return step


def megatron_step() -> Callable[[], None]:
    """Two layers of a GPT, each halved among both ranks, by Megatron's own schedule."""
    import torch
    from gpt_on_cpu import LENGTH, TOKENS, build_gpt, run_step
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(2, 1)
    model = build_gpt(2, 1, hidden=256)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    data = repeat(torch.arange(LENGTH).unsqueeze(0) % TOKENS)

    def step() -> None:
        optimizer.zero_grad()
        run_step(model, data, 2)
        optimizer.step()

    return step


STEPS = {"ddp": ddp_step, "fsdp2": fsdp2_step, "megatron": megatron_step}


def measure(kind: str, arguments: argparse.Namespace) -> None:
    """Runs in each rank; rank 0 prints."""
    import torch
    import torch.distributed as dist

    from distwatch.agent import core

    torch.manual_seed(0)
    dist.init_process_group("gloo")
    stay_on_one_core(dist.get_rank())
    step = STEPS[kind]()
    agent = core.current()
    assert agent is not None

    def prepare() -> None:
        median_of(step, 5)
        agent.beat()

    block = hooked_or_not(lambda: median_of(step, arguments.steps), prepare)
    began, used = time.monotonic(), seconds_of_agent()
    pairs = [pair_of(block, number) for number in range(arguments.pairs)]
    share = (seconds_of_agent() - used) / (time.monotonic() - began)
    if dist.get_rank() == 0:
        report(f"{kind}: a step", pairs)
        print(
            f"agent's thread: {share:.2%} of a core; on /dev/shm: {kib_of_rank(agent.page.path)} KiB a rank"
        )
    dist.destroy_process_group()


def seconds_of_agent() -> float:
    """CPU time of the agent's thread, by the kernel."""
    import threading

    (thread,) = [one for one in threading.enumerate() if one.name == "distwatch"]
    with open(f"/proc/self/task/{thread.native_id}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def kib_of_rank(pulse: str) -> int:
    """What this process's files take there."""
    folder, stem = os.path.split(pulse.removesuffix(".pulse"))
    files = [one for one in os.scandir(folder) if one.name.startswith(stem)]
    return sum(one.stat().st_blocks * 512 for one in files) // 1024


def main() -> None:
    """Launches itself, or measures where it has been launched."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(STEPS)}")
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--steps", type=int, default=15, help="in each block")
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.inside:
        import distwatch.auto  # noqa: F401

        measure(arguments.kinds[0], arguments)
        return
    counts = ["--pairs", str(arguments.pairs), "--steps", str(arguments.steps)]
    sys.exit(max(launch(__file__, 2, [*counts, kind]) for kind in arguments.kinds or STEPS))


if __name__ == "__main__":
    main()
