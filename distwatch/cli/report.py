"""`distwatch report RUN|DIR|PID`: the post-mortem."""

from __future__ import annotations

import os

import click

from distwatch.cli.options import exit_code, output_option, root_option
from distwatch.diagnosis import diagnose
from distwatch.errors import UsageError
from distwatch.observer.incidents import write_whole
from distwatch.observer.runs import find_run, load_state
from distwatch.report.document import Report, build_report, to_json


@click.command()
@click.argument("target", metavar="RUN|DIR|PID")
@output_option("md", "json", "html")
@click.option(
    "--output", "path", metavar="FILE", help="Write there instead of to stdout (mode 0600)."
)
@root_option
def command(target: str, output: str, path: str | None, root: str) -> int:
    """The report on a run, from what is on disk, the job alive or dead.

    Ends with 3 where it found a hang or a crash, with 6 where ranks were not observed.
    """
    if path is not None and os.path.isdir(path):
        raise UsageError(f"{path} is a folder", advice="Name the file to write.")
    folder = find_run(target, root)
    state = load_state(folder)
    findings = diagnose(state)
    report = build_report(state, findings, folder.run_id)
    content = _render(report, output)
    if path is None:
        click.echo(content.decode(), nl=False)
    else:
        write_whole(path, content)
        click.echo(f"distwatch: written to {path}", err=True)
    expected = report.coverage.expected_ranks or 0
    return exit_code(findings, partial=report.coverage.observed_ranks < expected)


def _render(report: Report, output: str) -> bytes:
    if output == "json":
        return to_json(report)
    if output == "html":
        from distwatch.report.html import render_html

        return render_html(report).encode()
    from distwatch.report.markdown import render_markdown

    return render_markdown(report).encode()
