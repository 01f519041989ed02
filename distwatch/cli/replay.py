"""`distwatch replay RUN`: the TUI on what was recorded."""

from __future__ import annotations

import click

from distwatch.cli.attach import show
from distwatch.cli.options import root_option
from distwatch.cli.terminal import require_terminal
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.observer.targets.resolver import resolve


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR]")
@root_option
def command(target: str | None, root: str) -> int:
    """Open the TUI on a recorded run: step with [ and ], pause with space.

    Without a name: the newest living run, else the newest.
    """
    folder = resolve(target, root).folder()
    require_terminal("`distwatch report` prints the same run.")
    show(RecordedRun(folder))
    return 0
