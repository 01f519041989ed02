"""Each trial as a command: `python -m tests.soak.NAME [--count N] [--seed N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def main(what: str, run: Callable[[int, int], str], count: int) -> None:
    """Runs it, prints its figures; exit code 1 and the reason where something did not hold."""
    options = argparse.ArgumentParser(description=what)
    options.add_argument("--count", type=int, default=count)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    try:
        print(f"{what}: {run(asked.count, asked.seed)}")
    except AssertionError as failure:
        sys.exit(f"{what}: {failure}")
