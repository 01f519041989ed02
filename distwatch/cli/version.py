"""`distwatch version`: as `-V`."""

from __future__ import annotations

import click

from distwatch import __version__
from distwatch.cli.terminal import echo


@click.command()
def command() -> int:
    """Show the version."""
    echo(f"distwatch, version {__version__}")
    return 0
