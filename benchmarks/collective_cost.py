"""What the hooks cost per gloo all_reduce, in one run: the same ranks with and without them.

Blocks with the hooks applied and undone alternate, their order changing from pair to pair, and
the median of the paired differences is told beside the one of an A/A control, which is how much
this machine differs from itself. The agent's thread beats in all blocks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]


def launch(arguments: argparse.Namespace) -> int:
    """Starts this file under torchrun, with run folders of its own."""
    with tempfile.TemporaryDirectory(prefix="dw-bench-") as root:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={arguments.ranks}", __file__, "--inside"]
        command += ["--pairs", str(arguments.pairs), "--calls", str(arguments.calls)]
        command += ["--numel", str(arguments.numel)]
        env = {
            **os.environ,
            "DISTWATCH": "1",
            "DISTWATCH_DIR": root,
            "DISTWATCH_OBSERVER": arguments.observer,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        return subprocess.run(command, env=env, check=False).returncode


def one_pair(block: Callable[[bool], float], pair: int) -> tuple[float, float, float]:
    """A block without the hooks, one with them, and another without as the control."""
    order = (False, True, False) if pair % 2 else (True, False, False)
    times = {True: [0.0], False: [0.0]}
    for hooked in order:
        times[hooked].append(block(hooked))
    return times[False][1], times[True][1], times[False][2]


def measure(arguments: argparse.Namespace) -> None:
    """Runs in each rank; rank 0 prints."""
    import torch
    import torch.distributed as dist

    from distwatch.agent import core
    from distwatch.integrations import registry
    from distwatch.settings import read_settings

    dist.init_process_group("gloo")
    # A rank that the scheduler moves about differs from itself by more than any hook costs.
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[dist.get_rank() % len(cpus)]})
    registry.undo_all()
    tensor = torch.ones(arguments.numel)

    def block(hooked: bool) -> float:
        if hooked:
            registry.arm(read_settings())
        for _ in range(20):
            dist.all_reduce(tensor)
        times = []
        for _ in range(arguments.calls):
            begin = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - begin)
        if hooked:
            registry.undo_all()
        return median(times) * 1e6

    samples = [one_pair(block, pair) for pair in range(arguments.pairs)]
    if dist.get_rank() == 0:
        agent = core.current()
        print(f"agent: {'runs' if agent else 'does not run'}; {dict(registry.statuses())}")
        report(*map(list, zip(*samples, strict=True)))
    dist.destroy_process_group()


def report(bare: list[float], hooked: list[float], control: list[float]) -> None:
    """Prints medians in microseconds a call."""
    base = median(bare)
    added = median(h - b for h, b in zip(hooked, bare, strict=True))
    noise = median(abs(c - b) for c, b in zip(control, bare, strict=True))
    print(f"all_reduce without hooks: {base:.1f} us")
    print(f"with hooks: {added:+.2f} us ({added / base:+.2%}), median of paired differences")
    print(f"two blocks without hooks differ by {noise:.2f} us ({noise / base:.2%}), median")


def main() -> None:
    """Launches itself, or measures where it has been launched."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--pairs", type=int, default=150)
    options.add_argument("--calls", type=int, default=150)
    options.add_argument("--numel", type=int, default=1)
    options.add_argument("--observer", default="auto", choices=("auto", "off"))
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.inside:
        import distwatch.auto  # noqa: F401

        measure(arguments)
    else:
        sys.exit(launch(arguments))


if __name__ == "__main__":
    main()
