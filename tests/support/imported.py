"""The verdict on a folder of dumps, without writing a run."""

from __future__ import annotations

from pathlib import Path

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.files import read_dumps
from distwatch.dumps.imported import RankDump, streams_of
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce


def judge_folder(folder: Path) -> list[Finding]:
    """What `distwatch import` finds there."""
    return judge_dumps(*read_dumps(str(folder)))


def judge_dumps(dumps: list[RankDump], refused: dict[str, str] | None = None) -> list[Finding]:
    """What `distwatch import` finds in these dumps."""
    state = RunState(run_id="imported")
    for stream in streams_of(dumps, refused or {}):
        for seq, (time_ns, event) in enumerate(stream.events, 1):
            reduce(state, stream.header, seq, time_ns, event)
    return diagnose(state)
