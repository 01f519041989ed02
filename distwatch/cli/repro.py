"""`distwatch repro RUN`: a small script whose ranks part in the same way."""

from __future__ import annotations

import click

from distwatch.cli.options import file_option, put_out, require_file, root_option
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.observer.targets.resolver import resolve
from distwatch.report.reproduction import NotReproducible, reproduce


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR|PID]")
@file_option
@root_option
def command(target: str | None, path: str | None, root: str) -> int:
    """Write a gloo script that makes the ranks part as in a run, where its verdict is about calls.

    It has no model and no data: each rank makes the calls that were recorded last, from as many
    lines as the job did.
    """
    require_file(path)
    found = resolve(target, root)
    state = found.state()
    cases = cases_of(state)
    findings = diagnose(cases)
    if not findings:
        raise NotReproducible(
            f"nothing was found in {found.name}", advice="Name a run with a verdict."
        )
    script = reproduce(cases[0], findings[0], state.run_id)
    put_out(script.encode("utf-8", "replace"), path)
    return 0
