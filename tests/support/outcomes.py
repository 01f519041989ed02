"""What `distwatch.initialize` raised in the ranks of a job, as `jobs/forms.py` writes it down."""

from __future__ import annotations

import json
from typing import Any

from tests.support.ranks import Job


def outcomes_of(job: Job, ranks: set[int]) -> dict[int, dict[str, Any]]:
    """By rank, once each of them has failed."""
    job.wait_step("failed", ranks)
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(job.work.glob("outcome-*")):
        found[int(path.name.split("-")[1])] = json.loads(path.read_text())
    assert ranks <= set(found)
    return found
