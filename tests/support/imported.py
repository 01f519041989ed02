"""The verdict on a folder of dumps, without writing a run."""

from __future__ import annotations

from pathlib import Path

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.assembly import streams_of_evidence
from distwatch.dumps.evidence import read_evidence
from distwatch.dumps.imported import RankDump, Stream, streams_of
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce


def judge_folder(folder: Path) -> list[Finding]:
    """What `distwatch import` finds there."""
    return _judge(streams_of_evidence(read_evidence([str(folder)])))


def judge_dumps(dumps: list[RankDump]) -> list[Finding]:
    """What `distwatch import` finds in these dumps."""
    return _judge(streams_of(dumps, {}))


def _judge(streams: list[Stream]) -> list[Finding]:
    state = RunState(run_id="imported")
    for stream in streams:
        for seq, (time_ns, event) in enumerate(stream.events, 1):
            reduce(state, stream.header, seq, time_ns, event)
    return diagnose(state)
