"""`distwatch report RUN|DIR|PID`: the post-mortem."""

from __future__ import annotations

import click

from distwatch.cli.options import (
    exit_code_of,
    file_option,
    output_option,
    put_out,
    require_file,
    root_option,
)
from distwatch.observer.targets.resolver import resolve
from distwatch.report.formats import render


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR|PID]")
@output_option("md", "json", "html")
@file_option
@root_option
def command(target: str | None, output: str, path: str | None, root: str) -> int:
    """Write the report on a run from what is on disk, the job alive or dead.

    Without a name: on the newest living run, else on the newest.

    Exits with 3 if it found a hang or a crash, with 6 if ranks were not observed.
    """
    require_file(path)
    report = resolve(target, root).report()
    put_out(render(report, output), path)
    return exit_code_of(report)
