"""`distwatch status RUN`: what every rank is doing."""

from __future__ import annotations

import time

import click
import msgspec

from distwatch.cli.options import color_option, exit_code_of, output_option, root_option
from distwatch.cli.tables import lay_out, terminal_width
from distwatch.cli.terminal import echo, echo_json, echo_verdict
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.unwatched import unwatched_jobs
from distwatch.report.document import Report
from distwatch.report.status import rank_document, run_line, status_document, still_s
from distwatch.state.quantities import seconds
from distwatch.visible_text import visible_line

WATCH_S = 2.0


@click.command()
@click.argument("target", required=False, metavar="[RUN|PID]")
@click.option("--watch", is_flag=True, help=f"Show it again every {WATCH_S:.0f} s, until Ctrl-C.")
@output_option("table", "json", "ndjson", "md")
@root_option
@color_option
def command(target: str | None, watch: bool, output: str, root: str) -> int:
    """Show a run's ranks and the verdict; by default, of the newest living run."""
    if target is None:
        for job in unwatched_jobs(root):
            echo(f"distwatch: {visible_line(job.text)}", err=True)
    while True:
        report = resolve(target, root).report()
        if watch and terminal_width() is not None:
            click.clear()
        _print(report, output)
        if not watch:
            return exit_code_of(report)
        time.sleep(WATCH_S)


def _print(report: Report, output: str) -> None:
    if output == "json":
        echo_json(status_document(report))
    elif output == "ndjson":
        for rank in report.ranks:
            echo(msgspec.json.encode(rank_document(rank)).decode())
    else:
        _print_table(report, markdown=output == "md")


def _print_table(report: Report, *, markdown: bool) -> None:
    now_s = time.time()
    echo_verdict(report.verdict)
    echo(run_line(report.run, now_s))
    echo()
    rows: list[tuple[str, ...]] = [("RANK", "HOST", "PID", "STATE", "SINCE", "DOING", "WHERE")]
    actors = any(rank.actor for rank in report.ranks)
    if actors:
        rows = [(*rows[0], "ACTOR")]
    for rank in report.ranks:
        rows.append(
            (
                str(rank.global_rank),
                rank.host,
                str(rank.pid or ""),
                rank.state,
                "" if (since_s := still_s(rank, now_s)) is None else seconds(since_s),
                rank.doing,
                rank.where,
                *((rank.actor,) if actors else ()),
            )
        )
    if report.ranks or not report.processes:
        for line in lay_out(rows, markdown=markdown, width=terminal_width()):
            echo(line)
    _print_processes(report, markdown=markdown, after_ranks=bool(report.ranks))
    for rank_number, why in report.coverage.unobserved.items():
        echo(f"rank {rank_number}: {visible_line(why)}", err=True)


def _print_processes(report: Report, *, markdown: bool, after_ranks: bool) -> None:
    if not report.processes:
        return
    rows: list[tuple[str, ...]] = [("PROCESS", "HOST", "PID", "PARENT", "STATE", "DOING", "WHERE")]
    for row in report.processes:
        doing = "; ".join(filter(None, (row.doing, row.exception)))
        rows.append((row.role, row.host, str(row.pid), str(row.ppid), row.state, doing, row.where))
    if after_ranks:
        echo()
    for line in lay_out(rows, markdown=markdown, width=terminal_width()):
        echo(line)
