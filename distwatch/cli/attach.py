"""`distwatch attach PID|RUN`: the TUI on the whole run."""

from __future__ import annotations

import asyncio
import shutil
import time

import click

from distwatch.cli.options import color_option, exit_code, root_option
from distwatch.cli.terminal import Styled, echo, is_terminal
from distwatch.diagnosis.checks.uninstrumented import STILL_S
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import UsageError
from distwatch.observer.journals.reading import require_records
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import RunSource
from distwatch.observer.targets.sources import RecordedRun

SETTLE_S = 1.5


@click.command()
@click.argument("target", required=False, metavar="PID|RUN")
@click.option("--once", is_flag=True, help="Print one screen and end; needs no terminal.")
@root_option
@color_option
def command(target: str | None, once: bool, root: str) -> int:
    """The TUI on the run that a process belongs to: a rank, its launcher, a dataloader worker.

    In Ray also a driver's pid, or an actor's name.
    Works on a job that never heard of distwatch, with what can be read from outside.
    """
    if not once and not is_terminal():
        raise UsageError(
            "there is no terminal here", advice="`distwatch attach --once` prints one screen."
        )
    source = resolve(target, root).source()
    if once:
        color = click.get_current_context().color
        return asyncio.run(print_once(source, bool(color)))
    require_readable(source)
    from distwatch.tui.app import DistwatchApp

    asyncio.run(DistwatchApp(source).show())
    return 0


def require_readable(source: RunSource) -> None:
    """Says before the screen is taken that a recording holds nothing; raises PartialData."""
    if isinstance(source, RecordedRun):
        require_records(source.folder)


async def _settle(source: RunSource) -> None:
    """A moment; without an agent inside, as long as it takes to tell still stacks from busy ones."""
    await asyncio.sleep(SETTLE_S)
    await source.poll()
    if any(process.instrumented for process in source.state.processes.values()):
        return
    echo(f"distwatch: no rank runs distwatch; watching from outside for {STILL_S:.0f} s", err=True)
    deadline = time.monotonic() + STILL_S + SETTLE_S
    while time.monotonic() < deadline and not diagnose(source.state):
        await asyncio.sleep(0.5)
        await source.poll()


async def print_once(source: RunSource, color: bool) -> int:
    """One look: opened, given a moment for evidence to arrive, printed."""
    from distwatch.tui.once import render_once

    try:
        await source.open()
        if source.live:
            await _settle(source)
        await source.poll()
        width = shutil.get_terminal_size((100, 24)).columns
        text = render_once(source.state, width, run_id=source.run_id, color=color)
        findings = diagnose(source.state)
    finally:
        await source.close()
    # Each piece of it was made visible before Rich coloured it.
    echo(Styled(text), nl=False)
    return exit_code(findings)
