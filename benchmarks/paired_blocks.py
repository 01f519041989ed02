"""Blocks of work with and without the hooks, in one run of real ranks.

Blocks with the hooks applied and undone alternate, their order changing from pair to pair, and the median of the
paired differences is told beside that of two blocks without: how much this machine differs from itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
JOBS = REPOSITORY / "tests" / "scenarios" / "jobs"


class Times(NamedTuple):
    """Seconds on the clock, and of all of the process's threads on their cores."""

    wall: float
    cpu: float


class Pair(NamedTuple):
    """A block without the hooks, one with them, and another without."""

    bare: Times
    hooked: Times
    control: Times


def launch(file: str, ranks: int, arguments: Sequence[str], observer: str = "auto") -> int:
    """Starts a file under torchrun, with `--inside` and a run root of its own."""
    with tempfile.TemporaryDirectory(prefix="dw-bench-", dir="/dev/shm") as root:
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", file, "--inside", *arguments]
        env = {
            **os.environ,
            "DISTWATCH": "1",
            "DISTWATCH_DIR": root,
            "DISTWATCH_OBSERVER": observer,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(JOBS))),
        }
        return subprocess.run(command, env=env, check=False).returncode


def stay_on_one_core(rank: int) -> None:
    """A rank that the scheduler moves about differs from itself by more than any hook costs."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[rank % len(cpus)]})


def median_of(work: Callable[[], object], times: int) -> Times:
    """Does it so often; the median of each time."""
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return Times(median(walls), median(cpus))


def hooked_or_not(
    work: Callable[[], Times], prepare: Callable[[], None]
) -> Callable[[bool], Times]:
    """A block: `prepare` is called with the hooks in place, and then the work is timed."""
    from distwatch.integrations import registry
    from distwatch.settings import read_settings

    def block(hooked: bool) -> Times:
        if hooked:
            registry.arm(read_settings())
        prepare()
        took = work()
        if hooked:
            registry.undo_all()
        return took

    registry.undo_all()
    return block


def pair_of(block: Callable[[bool], Times], number: int) -> Pair:
    """Three blocks, in an order that changes."""
    order = (False, True, False) if number % 2 else (True, False, False)
    times: dict[bool, list[Times]] = {True: [], False: []}
    for hooked in order:
        times[hooked].append(block(hooked))
    return Pair(times[False][0], times[True][0], times[False][1])


def report(what: str, pairs: Sequence[Pair]) -> None:
    """Prints medians in microseconds."""
    _report(what, [tuple(times.wall for times in pair) for pair in pairs])
    _report(f"{what}: CPU time", [tuple(times.cpu for times in pair) for pair in pairs])


def _report(what: str, pairs: Sequence[tuple[float, ...]]) -> None:
    base = median(bare for bare, _, _ in pairs)
    added = median(hooked - (bare + control) / 2 for bare, hooked, control in pairs)
    apart = median(abs(control - bare) for bare, _, control in pairs)
    control = median(control - bare for bare, _, control in pairs)
    print(
        f"{what}: {base * 1e6:.1f} us without hooks, with them {added * 1e6:+.2f} ({added / base:+.2%});"
        f" a second block without {control * 1e6:+.2f} ({control / base:+.2%}),"
        f" {apart * 1e6:.2f} apart ({apart / base:.2%}); medians of {len(pairs)}",
        flush=True,
    )
