"""Healthy jobs whose longest step passes every deadline: what is said of each, at each moment; and of the same, stuck.

A rank works alone, and another waits for it in a collective with a short deadline. Each job is looked at
once a second for some deadlines; then, in a second run, its work stops, and the time until that is found counts.
"""

from __future__ import annotations

import argparse
import os
import pty
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import Job, launch_ranks

START_S = 240.0
"""For a job to start: the machine may be busy."""
SLACK_S = 5.0
"""A job that is really stuck is found within its deadline and this."""
IDLE = ("serve", "serve_by_thread", "serve_by_loop", "schedule", "message queue", "debug")
WORKS = (
    "checkpoint", "evaluate", "compile", "child", "torch.save", "dcp", "tokenize", "replaced workers",
    "autotune", "long kernel", "garbage", "profiler", "compress", "index", "threads", "processes",
    "busy child", "download", "slow read", "hash", "parse", "unpickle", "copy", "sort", "optimizer",
    "loader workers", "silent evaluation", "lenient parse", "large number",
)  # fmt: skip
"""What rank 0 does: the ways of tests/scenarios/jobs/works_alone.py, and its units of work."""


class Seen(NamedTuple):
    """What was said of one job."""

    said: str
    wrong: list[str]
    waited_s: float
    cpu_s: float
    """Of the observer."""


@contextmanager
def launch(way: str, env: dict[str, str]) -> Iterator[tuple[Job, int]]:
    """The job, and a terminal at which somebody debugs rank 0."""
    mine, theirs = pty.openpty()
    given = {0: theirs} if way == "debug" else None
    try:
        with launch_ranks("works_alone", 2, env=env, args=(way,), stdin_of=given) as job:
            yield job, mine
    finally:
        os.close(mine)
        os.close(theirs)


def healthy(way: str, env: dict[str, str], lasts_s: float) -> Seen:
    """A run in which the work goes on."""
    with launch(way, env) as (job, terminal):
        job.wait_step("waiting", {1}, START_S)
        began, said, wrong = time.monotonic(), list[str](), list[str]()
        while (now := time.monotonic() - began) < lasts_s:
            time.sleep(1.0)
            for finding in diagnose(job.state()):
                word = f"{finding.severity} {finding.code}"
                said += [f"{word} from {now:.0f} s"] if not _is_told(word, said) else []
            wrong += [f"{f.code} {f.culprit_ranks}" for f in job.judged_blocking()]
        cpu_s = _cpu_s(job)
        os.write(terminal, b"continue\n")
        job.open_gate("enough", 0)
        codes = job.wait_ended(120)
        wrong += [] if codes == [0, 0] else [f"exit codes {codes}"]
        job.wait_observer_ended()
        wrong += [f"{f.code} {f.culprit_ranks}" for f in job.judged_blocking()]
        return Seen("; ".join(said) or "nothing", sorted(set(wrong)), lasts_s, cpu_s)


def _is_told(word: str, said: list[str]) -> bool:
    return any(one.startswith(f"{word} ") for one in said)


def _cpu_s(job: Job) -> float:
    pid = job.observer_pid()
    times = psutil.Process(pid).cpu_times() if pid else None
    return times.user + times.system if times else 0.0


def stuck(way: str, env: dict[str, str]) -> tuple[float, str]:
    """Seconds from the stop of the same work until a hang of rank 0 is found, and its code."""
    with launch_ranks("works_alone", 2, env=env, args=(way,)) as job:
        job.wait_step("waiting", {1}, START_S)
        job.open_gate("stall", 0)
        if way != "child":  # there the child is what stops
            job.wait_step("nothing moves", {0}, START_S)
        began = time.monotonic()
        while (waited := time.monotonic() - began) < 60:
            for finding in job.judged_blocking():
                if finding.severity == "hang" and finding.culprit_ranks == (0,):
                    return waited, finding.code
            time.sleep(0.2)
        return waited, "not found"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("ways", nargs="*", help="some of the jobs; all by default")
    options.add_argument(
        "--deadlines", type=float, default=2.0, help="how many of them each job passes"
    )
    options.add_argument("--no-stuck", action="store_true", help="only the healthy ones")
    options.add_argument("--only-stuck", action="store_true", help="only those whose work stops")
    options.add_argument("--by", default="reading", help="how it stops: reading or polling")
    options.add_argument("--deadline", type=int, default=8, help="seconds")
    arguments = options.parse_args()
    deadline_s = arguments.deadline
    env = {
        "DISTWATCH_DEADLINES": f"init=60,group=60,load=60,collective={deadline_s}",
        "STALL_BY": arguments.by,
    }
    print(
        f"deadline {deadline_s} s\n\n| job | hang or crash | said | waited s | observer CPU s | stuck: found after s |"
    )
    print("|---|---|---|---:|---:|---|", flush=True)
    bad = 0
    for way in arguments.ways or (*IDLE, *WORKS):
        seen = Seen("not run", [], 0.0, 0.0)
        if not arguments.only_stuck:
            seen = healthy(way, env, arguments.deadlines * deadline_s)
        bad += bool(seen.wrong)
        found = "not run"
        if not arguments.no_stuck and way not in IDLE:
            after_s, code = stuck(way, env)
            bad += after_s > deadline_s + SLACK_S
            found = f"{after_s:.1f} `{code}`"
        wrong = "; ".join(seen.wrong) or "none"
        print(
            f"| {way} | {wrong} | {seen.said} | {seen.waited_s:.0f} | {seen.cpu_s:.1f} | {found} |",
            flush=True,
        )
    print(f"\n{bad} wrong")


if __name__ == "__main__":
    main()
