"""`distwatch.status/1`: a report under the name that programs ask for."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from distwatch.report.document import Rank, Report, Run, of_contract
from distwatch.state.quantities import seconds

SCHEMA = "distwatch.status/1"


def status_document(report: Report) -> dict[str, Any]:
    """A run's state as plain data: what `distwatch status -o json` prints."""
    plain = msgspec.json.decode(msgspec.json.encode(of_contract(report)))
    return {**plain, "schema": SCHEMA}


def run_line(run: Run, now_s: float) -> str:
    """Which run it is, and whether it is one of now. `now_s`: the wall clock."""
    parts = [
        run.id,
        run.launcher,
        f"world size {run.world_size or 'unknown'}",
        ", ".join(run.hosts),
    ]
    if run.ended is not None:
        parts.append(f"ended {seconds(_age_s(run.ended, now_s))} ago")
    elif run.started is not None:
        parts.append(f"started {seconds(_age_s(run.started, now_s))} ago")
    return " · ".join(filter(None, parts))


def still_s(rank: Rank, now_s: float) -> float | None:
    """Seconds since a rank last moved, or since it ended."""
    return rank.since_s if rank.ended is None else _age_s(rank.ended, now_s)


def _age_s(moment: str, now_s: float) -> float:
    then = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return max(0.0, now_s - then.timestamp())


def rank_document(rank: Rank) -> dict[str, Any]:
    """One rank as plain data: a line of `distwatch status -o ndjson`."""
    return {"schema": SCHEMA, **msgspec.to_builtins(rank)}
