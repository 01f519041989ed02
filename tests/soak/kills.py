"""Ranks and observers are killed at random moments; what a rank has written must be read afterwards.

A rank counts a record as committed once `append` has returned: it then stores the count in a map
that it shares with the trial. It writes less than a ring holds, so that nothing may be overwritten.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from collections.abc import Callable
from random import Random
from typing import NoReturn

from distwatch.agent.journal import Journal
from distwatch.agent.pulse import PulsePage
from distwatch.observer.__main__ import main as observe
from distwatch.observer.journals.reading import read_entries
from distwatch.runfolder import RunFolder, boot_id, host_name, start_ticks, write_start
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import identify
from tests.soak.command import main
from tests.soak.folders import run_folder

RECORDS = 4000
LONGEST_S = 0.4
_COUNT = struct.Struct("<Q")


def run(trials: int, seed: int = 0) -> str:
    """Figures of that many trials.

    Raises:
        AssertionError: a committed record was lost, or read twice.
    """
    random, committed = Random(seed), 0
    begin = time.monotonic()
    for number in range(trials):
        committed += _trial(random, f"trial {number} of seed {seed}")
    spent = time.monotonic() - begin
    return f"{trials} SIGKILL trials, {committed} committed records, 0 lost, {spent:.0f} s"


def _trial(random: Random, name: str) -> int:
    """Kills a rank, its observer or both, in any order; returns how many records were committed."""
    with run_folder() as folder:
        counter = mmap.mmap(-1, _COUNT.size)
        rank = _fork(lambda: _write(folder, counter))
        observers = [_fork(lambda: observe([folder.path]))]
        try:
            for victim in random.choice(
                ("rank", "observer", "observer rank", "rank observer")
            ).split():
                time.sleep(random.uniform(0, LONGEST_S))
                if victim == "rank":
                    _kill(rank)
                    rank = 0
                else:
                    _kill(observers.pop())
                    observers.append(_fork(lambda: observe([folder.path])))
            if rank:
                _kill(rank)
                rank = 0
            committed: int = _COUNT.unpack(counter)[0]
            _check(folder, committed, name)
            if random.random() < 0.5:
                time.sleep(random.uniform(0, LONGEST_S))
                _kill(observers.pop())
                _check(folder, committed, name)
            return committed
        finally:
            for pid in (*observers, *([rank] if rank else [])):
                _kill(pid)
            counter.close()


def _check(folder: RunFolder, committed: int, name: str) -> None:
    read = [
        entry.event.step
        for entry in read_entries(folder)
        if isinstance(entry.event, ev.StepStarted)
    ]
    assert len(read) == len(set(read)), f"{name}: a record was read twice"
    lost = set(range(1, committed + 1)) - set(read)
    assert not lost, f"{name}: {len(lost)} of {committed} committed records are lost: {min(lost)}…"


def _write(folder: RunFolder, counter: mmap.mmap) -> None:
    """The rank's end: a journal as an agent makes it, and records until it is killed."""
    environ = {"RANK": "0", "WORLD_SIZE": "1"}
    stem = write_start(folder, "rank", environ)
    pid, host = os.getpid(), host_name()
    ticks = start_ticks(pid)
    header = FileHeader(
        stream=process_key(host, pid, ticks), host=host, pid=pid, start_ticks=ticks,
        boot_id=boot_id(), wall_offset_ns=time.time_ns() - time.monotonic_ns(), salt=pid,
        capacity=1 << 20,
    )  # fmt: skip
    journal = Journal(f"{folder.volatile}/{stem}.ring", header)
    page = PulsePage(f"{folder.volatile}/{stem}.pulse")
    started = ev.ProcessStarted(
        host=host, pid=pid, start_ticks=ticks, ppid=os.getppid(), role="rank",
        identity=identify(environ),
    )  # fmt: skip
    journal.append(started)
    for number in range(1, RECORDS + 1):
        journal.append(ev.StepStarted(step=number, name="step"))
        _COUNT.pack_into(counter, 0, number)
        if number % 100 == 0:
            page.write(ev.Pulse(beat=number, beat_ns=time.monotonic_ns()))
            time.sleep(LONGEST_S / 40)
    signal.pause()


def _fork(work: Callable[[], object]) -> int:
    """A child that does the work and nothing of this process's own exit."""
    pid = os.fork()
    if pid == 0:
        _run_and_exit(work)
    return pid


def _run_and_exit(work: Callable[[], object]) -> NoReturn:
    # pytest's own handlers and deadline belong to the parent.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        work()
    finally:
        os._exit(0)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main("SIGKILL of ranks and observers", run, 1000)
