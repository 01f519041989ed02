"""What an idle observer costs at 8 ranks: CPU of one core and memory.

    python benchmarks/observer_idle.py [--seconds 30] [--busy]

The ranks are real processes with the agent's real journal and pulse; `--busy` lets their
collectives advance and fills their operations rings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

import psutil

RANKS = 8
HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def rank(path: str, busy: bool) -> None:
    """Beats twice a second, as the agent's thread does."""
    from distwatch.agent.journal import Journal
    from distwatch.agent.pulse import PulsePage
    from distwatch.agent.start_record import file_header
    from distwatch.runfolder import RunFolder, write_start
    from distwatch.settings import RING
    from distwatch.state import events as ev
    from distwatch.state.identity import identify

    folder = RunFolder(path)
    stem = write_start(folder, "rank", os.environ)
    header = file_header(RING)
    journal = Journal(f"{folder.volatile}/{stem}.ring", header)
    page = PulsePage(f"{folder.volatile}/{stem}.pulse")
    started = ev.ProcessStarted(
        host=header.host,
        pid=header.pid,
        start_ticks=header.start_ticks,
        ppid=os.getppid(),
        role="rank",
        identity=identify(os.environ),
    )
    journal.append(started)
    members = tuple(range(RANKS))
    journal.append(ev.GroupCreated(pg_name="0", pg_desc="default_pg", members=members))
    operation, group = page.operations.name("all_reduce"), page.operations.name("0")
    seq = 1
    for beat in range(1, 1 << 30):
        for _ in range(20 if busy else 0):
            seq += 1
            now = time.monotonic_ns()
            token = page.operations.enter(now, operation, group, seq, 0, 100, 0, -1)
            page.operations.leave(token, now + 1000)
        now = time.monotonic_ns()
        progress = ev.GroupProgress(pg_name="0", enqueued=seq, completed=seq, changed_ns=now)
        page.write(ev.Pulse(beat=beat, beat_ns=now, groups=(progress,)))
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--busy", action="store_true")
    arguments = parser.parse_args()
    from distwatch.runfolder import RunFolder

    environ = {**os.environ, "PYTHONPATH": HOME, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "x"}
    environ |= {"MASTER_PORT": "1", "LOCAL_WORLD_SIZE": str(RANKS), "DISTWATCH": "0"}
    with tempfile.TemporaryDirectory() as root:
        folder = RunFolder(f"{root}/idle")
        folder.create()
        code = f"import sys; sys.path[:0]=[{HOME!r}]; from benchmarks.observer_idle import rank; "
        call = f"{code} rank({folder.path!r}, {arguments.busy})"
        ranks = [
            subprocess.Popen([sys.executable, "-c", call], env={**environ, "RANK": str(number)})
            for number in range(RANKS)
        ]
        command = [sys.executable, "-m", "distwatch.observer", folder.path]
        observer = subprocess.Popen(command, env=environ, cwd=HOME)
        try:
            measure(psutil.Process(observer.pid), arguments)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        began = time.monotonic()
        code_of_end = observer.wait(30)
        print(f"ended by itself after {time.monotonic() - began:.1f} s, code {code_of_end}")
        disk = sum(entry.stat().st_size for entry in os.scandir(folder.path) if entry.is_file())
        print(f"on disk: {disk / 1024:.0f} KiB")
        shutil.rmtree(os.path.dirname(folder.volatile), ignore_errors=True)


def spent_s(pid: int) -> float:
    """CPU seconds by the scheduler's clock: ticks miss whoever wakes up for short moments."""
    tasks = os.listdir(f"/proc/{pid}/task")
    return (
        sum(int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0]) for task in tasks)
        / 1e9
    )


def measure(observer: psutil.Process, arguments: argparse.Namespace) -> None:
    time.sleep(8)
    before, began = spent_s(observer.pid), time.monotonic()
    time.sleep(arguments.seconds)
    spent, wall = spent_s(observer.pid) - before, time.monotonic() - began
    memory = observer.memory_full_info()
    kind = "busy" if arguments.busy else "idle"
    print(
        f"observer at {RANKS} {kind} ranks: {100 * spent / wall:.2f} % of a core over {wall:.0f} s"
    )
    print(f"memory: {memory.rss / 2**20:.1f} MiB resident, {memory.uss / 2**20:.1f} MiB its own")


if __name__ == "__main__":
    main()
