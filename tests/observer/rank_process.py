"""A real rank for the observer's tests: the agent's own journal and pulse, driven line by line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from distwatch.agent.journal import Journal
from distwatch.agent.pulse import PulsePage
from distwatch.runfolder import RunFolder, start_ticks, write_start
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import identify

HOME = Path(__file__).resolve().parents[2]
NOBODYS_PORT = os.environ.get("PYTEST_XDIST_WORKER", "gw0").replace("gw", "1")
"""Nobody listens there. Of another worker's tests it is another: their ranks are of another job."""


class RankProcess:
    """The test's end: each command returns once the rank has done it."""

    def __init__(
        self, folder: RunFolder, global_rank: int = 0, world_size: int = 1, capacity: int = 1 << 20
    ) -> None:
        environ = {
            **os.environ,
            "RANK": str(global_rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": NOBODYS_PORT,
            "DISTWATCH": "0",
            "PYTHONPATH": str(HOME),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.observer.rank_process", folder.path, str(capacity)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environ,
            cwd=HOME,
        )
        self.pid = self._process.pid
        self.stem = self._answer()
        self.key = process_key(os.uname().nodename, self.pid, start_ticks(self.pid))

    def do(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        return self._answer()

    def kill(self) -> None:
        """SIGKILL; returns once the process has ended (and is a zombie until `reap`)."""
        self._process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def exit(self, code: int) -> None:
        """Has it end by `os._exit`; returns once it has, unreaped."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"exit {code}\n")
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the rank ended"
        return line.strip()


class _Rank:
    """The rank's end."""

    def __init__(self, folder: RunFolder, capacity: int) -> None:
        self.stem = write_start(folder, "rank", os.environ)
        pid, host = os.getpid(), os.uname().nodename
        ticks = start_ticks(pid)
        header = FileHeader(
            stream=process_key(host, pid, ticks),
            host=host,
            pid=pid,
            start_ticks=ticks,
            boot_id="b",
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            salt=pid,
            capacity=capacity,
        )
        self._started = ev.ProcessStarted(
            host=host,
            pid=pid,
            start_ticks=ticks,
            ppid=os.getppid(),
            role="rank",
            identity=identify(os.environ),
            deadlines={"collective": 300.0},
        )
        self._journal = Journal(f"{folder.volatile}/{self.stem}.ring", header)
        self._page = PulsePage(f"{folder.volatile}/{self.stem}.pulse")
        self._beats = 0
        self._steps = 0
        self._journal.append(self._started)

    def steps(self, count: str, label: str = "") -> None:
        """`count` steps, each begun and ended: two records a step."""
        for _ in range(int(count)):
            self._steps += 1
            self._journal.append(ev.StepStarted(step=self._steps, name="step", label=label))
            self._journal.append(ev.StepEnded(step=self._steps))

    def begin(self, name: str, deadline_s: str) -> None:
        self._steps += 1
        self._journal.append(
            ev.StepStarted(step=self._steps, name=name, deadline_s=float(deadline_s))
        )

    def on_hang(self, setting: str) -> None:
        """It has read this DISTWATCH_ON_HANG."""
        self._journal.append(msgspec.structs.replace(self._started, on_hang=setting))

    def plan(self, endpoint: str, world_size: str, global_rank: str = "0", by: str = "") -> None:
        """It means to form a world at that endpoint; `by` "store": it hosts the store there."""
        planned = ev.InitPlanned(
            global_rank=int(global_rank),
            world_size=int(world_size),
            endpoint=endpoint,
            hosts_store=by == "store",
        )
        self._journal.append(planned)

    def end(self, error: str = "") -> None:
        """Its newest step has ended."""
        self._journal.append(ev.StepEnded(step=self._steps, error=error or None))

    def confirm(self, global_rank: str, world_size: str) -> None:
        """It holds a world."""
        self._journal.append(
            ev.IdentityConfirmed(global_rank=int(global_rank), world_size=int(world_size))
        )

    def group(self, world_size: str) -> None:
        members = tuple(range(int(world_size)))
        self._journal.append(ev.GroupCreated(pg_name="0", pg_desc="default_pg", members=members))

    def beat(self, enqueued: str, completed: str, age_s: str = "0") -> None:
        """One pulse; its group last moved `age_s` ago."""
        self._beats += 1
        now = time.monotonic_ns()
        progress = ev.GroupProgress(
            pg_name="0",
            enqueued=int(enqueued),
            completed=int(completed),
            changed_ns=now - int(float(age_s) * 1e9),
        )
        self._page.write(ev.Pulse(beat=self._beats, beat_ns=now, groups=(progress,)))

    def operation(self, name: str) -> None:
        ring = self._page.operations
        ring.enter(time.monotonic_ns(), ring.name(name), ring.name("0"), 1, 0, 4, 0, -1)

    def raising(self, message: str) -> None:
        self._journal.append(ev.ExceptionUncaught(type_name="ValueError", message=message))

    def exit(self, code: str) -> None:
        os._exit(int(code))


def main() -> None:
    rank = _Rank(RunFolder(sys.argv[1]), int(sys.argv[2]))
    print(rank.stem, flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        getattr(rank, name)(*arguments)
        print("ok", flush=True)


if __name__ == "__main__":
    main()
