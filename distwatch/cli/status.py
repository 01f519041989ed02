"""`distwatch status RUN`: what every rank is doing."""

from __future__ import annotations

import click
import msgspec

from distwatch.cli.options import color_option, exit_code_of, output_option, root_option
from distwatch.cli.ps import lay_out
from distwatch.cli.terminal import echo, echo_json, severity_style
from distwatch.observer.targets.resolver import resolve
from distwatch.report.document import Report
from distwatch.report.status import rank_document, status_document
from distwatch.visible_text import visible_line


@click.command()
@click.argument("target", required=False, metavar="RUN|PID")
@output_option("table", "json", "ndjson", "md")
@root_option
@color_option
def command(target: str | None, output: str, root: str) -> int:
    """Show a run's ranks and the verdict; by default, of the newest living run."""
    report = resolve(target, root).report()
    if output == "json":
        echo_json(status_document(report))
    elif output == "ndjson":
        for rank in report.ranks:
            echo(msgspec.json.encode(rank_document(rank)).decode())
    else:
        _print_table(report, markdown=output == "md")
    return exit_code_of(report)


def _print_table(report: Report, *, markdown: bool) -> None:
    if report.findings:
        first = report.findings[0]
        severity = severity_style(first.severity, f"{first.severity}:")
        echo(severity, f" {visible_line(first.summary)}")
        echo(f"do: {visible_line(first.advice)}")
    else:
        echo("no findings")
    echo()
    rows: list[tuple[str, ...]] = [("RANK", "HOST", "PID", "STATE", "SINCE", "DOING", "WHERE")]
    actors = any(rank.actor for rank in report.ranks)
    if actors:
        rows = [(*rows[0], "ACTOR")]
    for rank in report.ranks:
        since = "" if rank.since_s is None else f"{rank.since_s:.1f} s"
        rows.append(
            (
                str(rank.global_rank),
                rank.host,
                str(rank.pid or ""),
                rank.state,
                since,
                rank.doing,
                rank.where,
                *((rank.actor,) if actors else ()),
            )
        )
    for line in lay_out(rows, markdown=markdown):
        echo(line)
    for rank_number, why in report.coverage.unobserved.items():
        echo(f"rank {rank_number}: {visible_line(why)}", err=True)
