"""`distwatch.status/1`: a report under the name that programs ask for."""

from __future__ import annotations

from typing import Any

import msgspec

from distwatch.report.document import Rank, Report

SCHEMA = "distwatch.status/1"


def status_document(report: Report) -> dict[str, Any]:
    """A run's state as plain data: what `distwatch status -o json` prints."""
    plain = msgspec.json.decode(msgspec.json.encode(report))
    return {**plain, "schema": SCHEMA}


def rank_document(rank: Rank) -> dict[str, Any]:
    """One rank as plain data: a line of `distwatch status -o ndjson`."""
    return {"schema": SCHEMA, **msgspec.to_builtins(rank)}
