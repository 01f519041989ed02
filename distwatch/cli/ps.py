"""`distwatch ps`: the runs of this node."""

from __future__ import annotations

import datetime

import click
import msgspec

from distwatch.cli.options import color_option, output_option, root_option
from distwatch.cli.tables import lay_out, lay_out_rows, terminal_width
from distwatch.cli.terminal import echo, echo_json, verdict_style
from distwatch.observer.targets.runs import SCHEMA, RunSummary, list_runs, runs_document
from distwatch.observer.targets.unwatched import unwatched_jobs
from distwatch.state.quantities import count_of
from distwatch.visible_text import visible_line

_SHOWN = 20


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help=f"Also ended runs beyond the newest {_SHOWN}."
)
@output_option("table", "json", "ndjson", "md")
@root_option
@color_option
def command(everything: bool, output: str, root: str) -> int:
    """List this node's runs, the newest first: the living ones, and those that ended lately."""
    known = list_runs(root)
    runs = [run for place, run in enumerate(known) if everything or run.alive or place < _SHOWN]
    if left_out := len(known) - len(runs):
        echo(f"distwatch: {count_of(left_out, 'older run')}: `distwatch ps --all`", err=True)
    if output == "json":
        echo_json(runs_document(runs))
    elif output == "ndjson":
        for run in runs:
            echo(msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(run)}).decode())
    elif not runs:
        echo(f"distwatch: no run is recorded under {root}", err=True)
    else:
        rows = [("RUN", "STARTED", "SCRIPT", "RANKS", "OBSERVER", "VERDICT"), *map(_row, runs)]
        if output == "md":
            echo("\n".join(lay_out(rows, markdown=True)))
        else:
            _print_table(rows, runs)
    for job in unwatched_jobs(root):
        echo(f"distwatch: {visible_line(job.text)}", err=True)
    return 0


def _print_table(rows: list[tuple[str, ...]], runs: list[RunSummary]) -> None:
    heading, *laid = lay_out_rows(rows, terminal_width())
    echo("\n".join(heading))
    for run, lines in zip(runs, laid, strict=True):
        for line in lines:
            echo(verdict_style("hang", line) if run.blocked else line)


def _row(run: RunSummary) -> tuple[str, ...]:
    began = "not observed"
    if run.started_wall_ns:
        moment = datetime.datetime.fromtimestamp(run.started_wall_ns / 1e9).astimezone()
        began = moment.strftime("%Y-%m-%d %H:%M:%S")
    expected = run.world_size if run.world_size is not None else run.ranks_seen
    observer = "ended" if not run.alive else "none"
    if run.observer_pid is not None:
        observer = f"pid {run.observer_pid}"
    verdict = f"{run.verdict.word}: {run.verdict.sentence}"
    ranks = f"{run.ranks_alive}/{expected} alive"
    return run.run_id, began, run.script, ranks, observer, verdict
