"""`distwatch attach PID|RUN`: the TUI on the whole run."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import click

from distwatch.cli.options import (
    color_option,
    exit_code,
    is_terminal,
    newest_run,
    root_option,
    wants_color,
)
from distwatch.errors import UsageError

SETTLE_S = 1.5


@click.command()
@click.argument("target", required=False, metavar="PID|RUN")
@click.option("--once", is_flag=True, help="Print one screen and end; needs no terminal.")
@root_option
@color_option
def command(target: str | None, once: bool, root: str, color: str) -> int:
    """The TUI on the run that a process belongs to: a rank, its launcher, a dataloader worker.

    Works on a job that never heard of distwatch, with what can be read from outside.
    """
    from distwatch.observer.sources import open_source

    if not once and not is_terminal():
        raise UsageError(
            "there is no terminal here", advice="`distwatch attach --once` prints one screen."
        )
    source = open_source(target or newest_run(root), root)
    if once:
        return asyncio.run(print_once(source, wants_color(color)))
    from distwatch.tui.app import DistwatchApp

    DistwatchApp(source).run()
    return 0


async def print_once(source: Any, color: bool) -> int:
    """One look: opened, given a moment for evidence to arrive, printed."""
    from distwatch.diagnosis import diagnose
    from distwatch.tui.once import render_once

    try:
        await source.open()
        if source.live:
            await asyncio.sleep(SETTLE_S)
        await source.poll()
        width = shutil.get_terminal_size((100, 24)).columns
        text = render_once(source.state, width, run_id=source.run_id, color=color)
        findings = diagnose(source.state)
    finally:
        await source.close()
    click.echo(text, nl=False, color=color)
    return exit_code(findings)
