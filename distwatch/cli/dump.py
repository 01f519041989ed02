"""`distwatch dump RUN|PID`: a full incident now."""

from __future__ import annotations

import asyncio

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import RunSource


@click.command()
@click.argument("target", required=False, metavar="[RUN|PID]")
@root_option
def command(target: str | None, root: str) -> int:
    """Ask every rank and the observer for a full incident now, hang or not."""
    source = resolve(target, root).source()
    if not source.live:
        raise UsageError(
            "that run has ended: its ranks cannot be asked for anything",
            advice="`distwatch report` writes what is on disk.",
        )
    echo(asyncio.run(_dump(source)))
    return 0


async def _dump(source: RunSource) -> str:
    try:
        await source.open()
        return await source.dump()
    finally:
        await source.close()
