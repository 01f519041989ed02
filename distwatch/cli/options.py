"""Options and output that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from distwatch.settings import run_root
from distwatch.state.finding import Finding

F = TypeVar("F", bound=Callable[..., Any])
HANG_FOUND = 3
PARTIAL = 6


def root_option(function: F) -> F:
    """`--dir`: where the run folders are."""
    return click.option(
        "--dir",
        "root",
        metavar="DIR",
        default=lambda: run_root(os.environ),
        show_default="DISTWATCH_DIR or the runtime folder",
        help="Root of the run folders.",
    )(function)


def color_option(function: F) -> F:
    """`--color auto|always|never`; NO_COLOR wins over auto."""
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="Colour in text output.",
    )(function)


def output_option(*formats: str) -> Callable[[F], F]:
    """`-o`: the format of what goes to stdout."""
    return click.option(
        "-o", "output", type=click.Choice(list(formats)), default=formats[0], show_default=True,
        help="Output format.",
    )  # fmt: skip


def wants_color(choice: str) -> bool:
    """Whether text on stdout is to be coloured."""
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"


def is_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def exit_code(findings: list[Finding], *, partial: bool = False) -> int:
    """The contract's code of a verdict."""
    if any(finding.blocks for finding in findings):
        return HANG_FOUND
    return PARTIAL if partial else 0


def newest_run(root: str) -> str:
    """The run that is meant where none is named: the newest living one, else the newest.

    Raises:
        NoSuchTarget: there is none.
    """
    from distwatch.errors import NoSuchTarget
    from distwatch.observer.runs import list_runs

    runs = list_runs(root)
    if not runs:
        raise NoSuchTarget(
            f"no run is recorded under {root}",
            advice="Start one with `distwatch run -- …`, or set DISTWATCH_DIR.",
        )
    return next((run for run in runs if run.alive), runs[0]).path
