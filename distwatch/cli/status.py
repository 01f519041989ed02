"""`distwatch status RUN`: where every rank stands."""

from __future__ import annotations

import click
import msgspec

from distwatch.cli.options import (
    color_option,
    exit_code,
    is_partial,
    newest_run,
    output_option,
    printable,
    root_option,
    severity_style,
)
from distwatch.cli.ps import lay_out
from distwatch.diagnosis import diagnose
from distwatch.observer.runs import find_run, load_state
from distwatch.report.document import Report, build_report

SCHEMA = "distwatch.status/1"


@click.command()
@click.argument("target", required=False, metavar="RUN|PID")
@output_option("table", "json", "ndjson", "md")
@root_option
@color_option
def command(target: str | None, output: str, root: str) -> int:
    """The ranks of a run and the verdict; the newest living run where none is named."""
    folder = find_run(target or newest_run(root), root)
    state = load_state(folder)
    findings = diagnose(state)
    report = build_report(state, findings, folder.run_id)
    if output == "json":
        document = {
            "schema": SCHEMA,
            **{k: v for k, v in msgspec.to_builtins(report).items() if k != "schema"},
        }
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    elif output == "ndjson":
        for rank in report.ranks:
            click.echo(
                msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(rank)}).decode()
            )
    else:
        _print_table(report, markdown=output == "md")
    coverage = report.coverage
    return exit_code(findings, partial=is_partial(coverage.expected_ranks, coverage.observed_ranks))


def _print_table(report: Report, *, markdown: bool) -> None:
    if report.findings:
        first = report.findings[0]
        severity = severity_style(first.severity, f"{first.severity}:")
        click.echo(f"{severity} {printable(first.summary)}")
        click.echo(f"do: {printable(first.advice)}")
    else:
        click.echo("no findings")
    click.echo()
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
        click.echo(line)
    for rank_number, why in report.coverage.unobserved.items():
        click.echo(f"rank {rank_number}: {printable(why)}", err=True)
