"""`distwatch replay RUN`: the TUI on what was recorded."""

from __future__ import annotations

import asyncio

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import is_terminal
from distwatch.errors import UsageError


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR]")
@root_option
def command(target: str | None, root: str) -> int:
    """Open the TUI on a recorded run: step with [ and ], pause with space.

    Without a name: the newest living run, else the newest.
    """
    from distwatch.observer.journals.reading import require_records
    from distwatch.observer.targets.resolver import resolve
    from distwatch.observer.targets.sources import RecordedRun

    folder = resolve(target, root).folder()
    if not is_terminal():
        raise UsageError(
            "there is no terminal here", advice="`distwatch report` prints the same run."
        )
    require_records(folder)  # fails before the TUI takes the screen
    from distwatch.tui.app import DistwatchApp

    asyncio.run(DistwatchApp(RecordedRun(folder)).show())
    return 0
