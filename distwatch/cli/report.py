"""`distwatch report RUN|DIR|PID`: the post-mortem."""

from __future__ import annotations

import os

import click

from distwatch.cli.options import exit_code, is_partial, output_option, root_option
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
    if path is not None:
        _require_file(path)
    folder = find_run(target, root)
    state = load_state(folder)
    findings = diagnose(state)
    report = build_report(state, findings, folder.run_id)
    content = _render(report, output)
    if path is None:
        click.echo(content, nl=False)
    else:
        _write(path, content)
        click.echo(f"distwatch: written to {path}", err=True)
    coverage = report.coverage
    return exit_code(findings, partial=is_partial(coverage.expected_ranks, coverage.observed_ranks))


def _require_file(path: str) -> None:
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder", advice="Name the file to write.")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise UsageError(f"there is no folder {parent}", advice="Make it first.")


def _write(path: str, content: bytes) -> None:
    # A device or a pipe is written to: replacing it would take it from everybody.
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(content)
    else:
        write_whole(path, content)


def _render(report: Report, output: str) -> bytes:
    if output == "json":
        return to_json(report)
    if output == "html":
        from distwatch.report.html import render_html

        return render_html(report).encode()
    from distwatch.report.markdown import render_markdown

    return render_markdown(report).encode()
