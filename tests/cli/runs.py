"""Small real runs on disk for the command line to look at, and the command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from distwatch.observer.segments import Segment
from distwatch.runfolder import RunFolder
from distwatch.state.events import encode_event
from distwatch.state.frames import Record
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
