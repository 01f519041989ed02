"""The processes of a run that are no ranks, row by row, for every view."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from distwatch.diagnosis.facts.activity import activity_of
from distwatch.diagnosis.facts.process_roles import role_text
from distwatch.diagnosis.facts.rank_status import where
from distwatch.diagnosis.facts.signals import exit_text
from distwatch.state.model import Process, RunState
from distwatch.visible_text import shorten

_COMMAND = 160


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """A process beside the ranks, or of a job without any."""

    role: str
    """launcher, driver, actor, data worker, pool worker, child process, converter, or no rank yet."""
    host: str
    pid: int
    ppid: int
    """Its parent, which is a row or a rank where the run has it."""
    state: str
    """running, stopped, exited, failed or killed."""
    doing: str = ""
    where: str = ""
    """The innermost frame of the user's code, or where it raised."""
    exception: str = ""
    command: str = ""


def process_rows(state: RunState) -> list[ProcessRow]:
    """Launchers first, then by host and pid."""
    return sorted(_rows(state), key=lambda row: (row.role != "launcher", row.host, row.pid))


def _rows(state: RunState) -> Iterator[ProcessRow]:
    for process in state.processes.values():
        if process.role == "rank" and process.global_rank is not None:
            continue
        word, doing = _status(state, process)
        error = process.exception
        yield ProcessRow(
            role=role_text(state, process),
            host=process.host,
            pid=process.pid,
            ppid=process.ppid,
            state=word,
            doing=doing,
            where=where(process),
            exception=shorten(f"{error.type_name}: {error.message}", 200) if error else "",
            command=shorten(" ".join(process.command), _COMMAND),
        )


def _status(state: RunState, process: Process) -> tuple[str, str]:
    seen = process.outside.exit
    if process.ended_ns is not None:
        failed = bool(process.exception) or (seen is not None and bool(seen.exit_code))
        killed = seen is not None and seen.signal is not None
        return "killed" if killed else "failed" if failed else "exited", exit_text(seen)
    sample = process.outside.sample
    if sample is not None and sample.state == "T":
        return "stopped", "stopped by a signal (SIGSTOP or SIGTSTP)"
    activity = activity_of(state, process)
    return "running", activity.doing if activity is not None else ""
