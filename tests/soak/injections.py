"""Distwatch is brought into ranks in every kind of wait, and taken out again: none dies, none computes otherwise.

The expected result is that of the same job into which nothing was brought.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from distwatch.injection.refusal import Refused
from distwatch.injection.request import bring_in
from distwatch.observer.targets.injecting import take_out
from distwatch.probes.procfs import state_of
from distwatch.probes.syscalls import call_of
from distwatch.runfolder import RunFolder, host_name
from tests.soak.command import main
from tests.support.ranks import Job, launch_ranks
from tests.support.waiting import wait_until

WAITS = (
    "gate sleep event lock queue flock child asyncio recv select poll epoll spin churn compute write "
    "stdin stopped gil"
).split()
NEVER = ("stopped", "gil")
"""Nothing is brought into rank 1 while no thread of it, or no Python code in it, can run."""
COLLECTIVES = "all_reduce broadcast barrier all_gather_object recv new_group store backward".split()


def run(count: int, seed: int = 0) -> str:
    """Figures of that many injections; the last one into each rank stays for good.

    Raises:
        AssertionError: a rank died, or its result is another one.
    """
    expected = _result(0, 0)[0]
    began = time.monotonic()
    done, longest_s, refused = 0, 0.0, 0
    kinds = min(len(WAITS), count // 2)
    for number in range(kinds):
        each = count * (number + 1) // kinds - count * number // kinds
        # A short trial is not only of the first kinds.
        kind = (seed + number * len(WAITS) // kinds) % len(WAITS)
        result, times, refusals = _result(kind, each)
        assert result == expected, f"{WAITS[kind]}: another result"
        done, refused = done + len(times), refused + refusals
        longest_s = max([longest_s, *times])
    spent = time.monotonic() - began
    return (
        f"{count} injections into ranks in {kinds} kinds of wait: "
        f"{done} brought in, {refused} refused, 0 deaths, 0 changed results; "
        f"{longest_s:.2f} s the longest, {spent:.0f} s in all"
    )


def _result(number: int, count: int) -> tuple[set[str], list[float], int]:
    """What both ranks print after that many injections, how long each took, and how many were refused."""
    wait, collective = WAITS[number], COLLECTIVES[number % len(COLLECTIVES)]
    times: list[float] = []
    refused = 0
    with _launched(wait, collective) as (job, stdin):
        job.wait_step("waits", {0, 1})
        if wait in NEVER:
            _wait_asleep(job, stops=wait == "stopped")
        for turn, rank in zip(range(count), itertools.cycle((0, 1))):
            began = time.monotonic()
            try:
                _inject(job, rank, turn, for_good=turn >= count - 2)
                assert rank == 0 or wait not in NEVER, f"{wait}: nothing can be brought in there"
                times.append(time.monotonic() - began)
            except Refused as why:
                print(f"{wait}, {collective}, rank {rank}: {why}")
                refused += 1
        job.launched[1].send_signal(signal.SIGCONT)
        job.open_gate("on", 1)
        os.write(stdin, b"\n")
        ended = job.wait_ended()
        assert ended == [0, 0], (
            f"{wait}, {collective}: the ranks ended with {ended}\n{job.output()}"
        )
        lines = job.output().splitlines()
        assert not [line for line in lines if "distwatch:" in line], job.output()
        results = [line for line in lines if line.startswith("result ")]
        assert len(results) == 2, job.output()
    return set(results), times, refused


@contextlib.contextmanager
def _launched(wait: str, collective: str) -> Iterator[tuple[Job, int]]:
    """The job, and the end of rank 1's stdin at which somebody may type."""
    reading, writing = os.pipe()
    try:
        with launch_ranks(
            "bare_waits",
            2,
            without_distwatch=(0, 1),
            args=(wait, collective),
            stdin_of={1: reading},
        ) as job:
            yield job, writing
    finally:
        os.close(reading)
        os.close(writing)


def _wait_asleep(job: Job, *, stops: bool) -> None:
    """Until rank 1 is in the call that it waits in; or, if `stops`, until it is stopped there."""
    pid = job.launched[1].pid
    if stops:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T" if stops else call_of(pid, pid, "S").name == "read")


def _inject(job: Job, rank: int, turn: int, *, for_good: bool) -> None:
    folder = RunFolder(f"{job.root}/injected-{rank}-{turn}")
    folder.create()
    pid = job.launched[rank].pid
    bring_in(pid, folder, "rank", for_good=for_good)
    if not for_good:
        socket = f"{folder.volatile}/{host_name()}-{pid}.sock"
        assert Path(socket).exists(), "no agent is there"
        asyncio.run(take_out([socket]))
        assert not Path(socket).exists(), "the agent has not left"


if __name__ == "__main__":
    main("injections", run, 200)
