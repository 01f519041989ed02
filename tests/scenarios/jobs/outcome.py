"""Writes down what a rank was told, for the test."""

import json
import os

from steps import RANK, WORK, step


def write_down(error: Exception) -> None:
    """The error and its finding, as `tests/support/outcomes.py` reads them."""
    finding = getattr(error, "finding", None)
    outcome = {
        "type": type(error).__name__,
        "message": str(error),
        "code": finding.code if finding else None,
        "culprits": list(finding.culprit_ranks) if finding else [],
        "missing": list(getattr(error, "missing", ())),
        "arrived": list(getattr(error, "arrived", ())),
        "places": getattr(error, "places", {}),
    }
    with open(os.path.join(WORK, f"outcome-{RANK}-{os.getpid()}"), "w") as file:
        json.dump(outcome, file)
    step("failed")
