"""`distwatch ps`: the runs of this node."""

from __future__ import annotations

import datetime

import click
import msgspec

from distwatch.cli.options import color_option, output_option, root_option
from distwatch.cli.terminal import echo, echo_json, verdict_style
from distwatch.observer.targets.runs import SCHEMA, RunSummary, list_runs, runs_document
from distwatch.observer.targets.unwatched import unwatched_jobs
from distwatch.visible_text import visible_line


@click.command()
@output_option("table", "json", "ndjson", "md")
@root_option
@color_option
def command(output: str, root: str) -> int:
    """List this node's runs, the newest first."""
    runs = list_runs(root)
    if output == "json":
        echo_json(runs_document(runs))
    elif output == "ndjson":
        for run in runs:
            echo(msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(run)}).decode())
    elif not runs:
        echo(f"distwatch: no run is recorded under {root}", err=True)
    else:
        rows = [("RUN", "STARTED", "RANKS", "OBSERVER", "VERDICT"), *map(_row, runs)]
        heading, *lines = lay_out(rows, markdown=output == "md")
        echo(heading)
        # A Markdown table has a rule below its heading.
        marks = [False] * (len(lines) - len(runs)) + [run.blocked for run in runs]
        for line, blocked in zip(lines, marks, strict=True):
            echo(verdict_style("hang", line) if blocked and output == "table" else line)
    for job in unwatched_jobs(root):
        echo(f"distwatch: {visible_line(job.text)}", err=True)
    return 0


def lay_out(rows: list[tuple[str, ...]], *, markdown: bool) -> list[str]:
    """Rows as aligned text or a Markdown table; the first row is the heading."""
    rows = [tuple(visible_line(cell) for cell in row) for row in rows]
    if markdown:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


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
    return (run.run_id, began, f"{run.ranks_alive}/{expected} alive", observer, verdict[:100])
