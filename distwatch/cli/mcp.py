"""`distwatch mcp`: the read-only questions of a coding agent, over stdio."""

from __future__ import annotations

import os
import signal

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import echo, is_terminal
from distwatch.errors import UsageError


@click.command()
@root_option
def command(root: str) -> int:
    """Answer a coding agent's questions about this machine's runs, over stdio.

    A server of the Model Context Protocol: runs, verdict, ranks, stacks, source, report. Read-only: it
    looks at no process and opens no port. An agent starts it by itself; docs/agents.md shows how.
    """
    try:
        from distwatch.mcp_server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise UsageError(
            "the mcp package is not installed", advice="pip install 'distwatch[mcp]'"
        ) from None
    # A thread waits for the next line of stdin, and nothing else could end that wait.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if is_terminal():
        echo("distwatch: waiting for an agent's questions on stdin; Ctrl-C ends it", err=True)
    serve(root)
    return 0
