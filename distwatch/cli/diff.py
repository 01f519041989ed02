"""`distwatch diff RUN HEALTHY-RUN`: what a run did otherwise."""

from __future__ import annotations

import click
import msgspec

from distwatch.cli.options import output_option, root_option
from distwatch.cli.tables import Row, lay_out, terminal_width
from distwatch.cli.terminal import echo
from distwatch.observer.journals.reading import read_entries
from distwatch.observer.targets.resolver import resolve
from distwatch.report.comparison import Calls, Comparison, calls_of, compare
from distwatch.state.model import RunState


@click.command()
@click.argument("run")
@click.argument("healthy", metavar="HEALTHY-RUN")
@output_option("table", "json", "md")
@root_option
def command(run: str, healthy: str, output: str, root: str) -> int:
    """Compare a run with a healthy one: versions, environment, layout, calls, length of steps.

    Of calls, only those are compared that both runs have on disk: a rank keeps the last ones it made.
    """
    mine, yours = _read(run, root), _read(healthy, root)
    compared = compare(mine[0], yours[0], (mine[1], yours[1]))
    if output == "json":
        echo(msgspec.json.format(msgspec.json.encode(compared), indent=2).decode())
    else:
        _print(compared, markdown=output == "md")
    return 0


def _read(name: str, root: str) -> tuple[RunState, Calls]:
    target = resolve(name, root)
    state = target.state()
    events = (
        (getattr(entry.event, "process", None) or entry.header.stream, entry.event)
        for entry in read_entries(target.folder())
    )
    return state, calls_of(events, state)


def _print(compared: Comparison, *, markdown: bool) -> None:
    rows: list[Row] = [
        ("KIND", "WHAT", compared.run, compared.healthy),
        *((one.kind, one.what, one.here, one.healthy) for one in compared.differences),
    ]
    if len(rows) > 1:
        echo("\n".join(lay_out(rows, markdown=markdown, width=terminal_width())))
    else:
        echo("no difference was found")
    for absent in compared.not_compared:
        echo(f"not compared: {absent}", err=True)
