"""`distwatch export RUN`: a run in the formats of other tools."""

from __future__ import annotations

import click
import msgspec

from distwatch.cli.options import (
    exit_code_of,
    file_option,
    output_option,
    put_out,
    require_file,
    root_option,
)
from distwatch.observer.journals.reading import read_entries
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.target import Target, report_on
from distwatch.report.document import Report
from distwatch.report.prometheus import render_metrics
from distwatch.report.trace import RunEvent, Trace
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR|PID]")
@output_option("perfetto", "speedscope", "prometheus", "otlp")
@click.option(
    "--endpoint", metavar="URL", help="For otlp.  [default: $OTEL_EXPORTER_OTLP_ENDPOINT]"
)
@file_option
@root_option
def command(
    target: str | None, output: str, endpoint: str | None, path: str | None, root: str
) -> int:
    """Convert a run for other tools, the job alive or dead.

    Without a name: the newest living run, else the newest.

    perfetto: a trace with steps, loads, collectives and verdicts, for https://ui.perfetto.dev and
    chrome://tracing. speedscope: all threads' stacks, taken now where possible. prometheus: metrics
    as text, for a node exporter's textfile collector (`distwatch serve` has them live). otlp: steps and
    collectives as spans and incidents as logs, sent to a collector by OTLP over HTTP.
    Exits with 3 if a hang or a crash was found, with 6 if ranks were not observed.
    """
    require_file(path)
    meant = resolve(target, root)
    if output == "speedscope":
        return _export_stacks(meant, path)
    if output == "otlp":
        from distwatch.cli.otlp import send

        return exit_code_of(send(meant.folder(), endpoint))
    if output == "prometheus":
        report = meant.report()
        content = render_metrics([report])
    else:
        report, content = _perfetto(meant.folder())
    put_out(content, path)
    return exit_code_of(report)


def _export_stacks(target: Target, path: str | None) -> int:
    from distwatch.cli.options import PARTIAL
    from distwatch.cli.stacks import collect, speedscope_file

    collected = collect(target)
    put_out(speedscope_file(collected, all_threads=True), path)
    return PARTIAL if collected.problems else 0


def _perfetto(folder: RunFolder) -> tuple[Report, bytes]:
    state = load_state(folder)
    report, trace = report_on(state), trace_of(folder, state)
    return report, msgspec.json.encode(trace.document(report.findings, report.run.id)) + b"\n"


def trace_of(folder: RunFolder, state: RunState) -> Trace:
    """What happened in a run, with the events that its state no longer holds."""
    trace = Trace(state)
    for entry in read_entries(folder):
        trace.take(RunEvent(entry.header.stream, entry.time_ns, entry.event))
    return trace
