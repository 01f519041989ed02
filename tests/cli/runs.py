"""Small real runs on disk for the command line to look at, and the command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from click.testing import CliRunner, Result

from distwatch.agent.journal import Journal
from distwatch.cli.__main__ import cli
from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder
from distwatch.state.events import ProcessStarted, encode_event
from distwatch.state.frames import FileHeader, Record, process_key
from tests.diagnosis.recorded import RecordedJob


def save(job: RecordedJob, root: Path, run_id: str) -> RunFolder:
    """Writes a recorded job's events as the journals that an observer would have kept."""
    folder = RunFolder(str(root / run_id))
    folder.create()
    for stream, records in job.records.items():
        header = job.headers[stream]
        name = stream.replace(":", "-").replace(".", "-")
        segment = Segment(folder.journal(name), header)
        segment.append(
            [
                Record(seq=seq, time_ns=time_ns, payload=encode_event(event))
                for seq, time_ns, event in records
            ]
        )
        segment.close()
    return folder


def rings(folder: RunFolder, job: RecordedJob, ranks: dict[int, tuple[int, int]]) -> None:
    """Writes ranks' own events through the agent's journal: pid and start ticks by global rank."""
    folder.create()
    host = os.uname().nodename
    for rank, (pid, ticks) in ranks.items():
        stem = f"{host}-{pid}"
        header = FileHeader(
            stream=process_key(host, pid, ticks),
            host=host,
            pid=pid,
            start_ticks=ticks,
            boot_id="b",
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            salt=rank + 1,
            capacity=64 * 1024,
        )
        Path(folder.path, f"{stem}.start").write_text(
            f"pid={pid}\nticks={ticks}\nppid=1\nhost={host}\nrole=rank\n"
            f"RANK={rank}\nWORLD_SIZE={job.world}\n"
        )
        journal = Journal(f"{folder.volatile or folder.path}/{stem}.ring", header)
        for _, _, event in job.records[job.key(rank)]:
            if isinstance(event, ProcessStarted):
                event = msgspec.structs.replace(event, host=host, pid=pid, start_ticks=ticks)
            journal.append(event)


def call(*arguments: str, root: Path) -> Result:
    """The command in this process: its exit code is what it returned."""
    return CliRunner().invoke(cli, [*arguments, "--dir", str(root)], standalone_mode=False)


def distwatch(
    *arguments: str, root: Path | None = None, user: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The real command, without a terminal."""
    environ = {**os.environ, "DISTWATCH_DIR": str(root or "/nonexistent"), **variables}
    return subprocess.run(
        [sys.executable, "-m", "distwatch", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=user,
        cwd="/",
    )
