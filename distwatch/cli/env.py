"""`distwatch env [PID]`: the launcher's variables, what can be derived from them, and what is missing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

import click
import msgspec

from distwatch.cli.options import WholeNumber, color_option, exit_code, output_option
from distwatch.cli.tables import lay_out, terminal_width
from distwatch.cli.terminal import echo, echo_json, styled, verdict_style
from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.preflight.launch_environment import LaunchEnvironment, read_launch_environment
from distwatch.probes.procfs import stat_fields
from distwatch.probes.ptrace import explain_denial
from distwatch.probes.table import read_environ
from distwatch.state.rank_sets import agree
from distwatch.visible_text import visible_line

SCHEMA = "distwatch.env/1"


@click.command()
@click.argument("pid", required=False, metavar="[PID]", type=WholeNumber(1))
@output_option("table", "json", "sh")
@color_option
def command(pid: int | None, output: str) -> int:
    """Show the launcher's variables of this shell, or of a process: set, derived and missing.

    `-o sh` prints lines that complete the environment: eval "$(distwatch env -o sh)".
    """
    environ = _environ(pid)
    launched = read_launch_environment(environ, pid)
    if output == "json":
        document = {"schema": SCHEMA, "pid": pid, **msgspec.to_builtins(launched)}
        echo_json(document)
    elif output == "sh":
        _print_exports(launched)
    else:
        _print(launched, pid)
    return exit_code(launched.findings)


def _environ(pid: int | None) -> Mapping[str, str]:
    # This process has switched distwatch off for itself: the shell's own values count.
    environ = read_environ(os.getpid() if pid is None else pid)
    if environ is not None:
        return environ
    if pid is None:
        return os.environ
    if stat_fields(pid) is None:
        raise NoSuchTarget(f"there is no process {pid}", advice="`distwatch ps` lists the runs.")
    raise AttachDenied(
        f"the environment of process {pid} cannot be read: {explain_denial(pid)}",
        advice="Run this in that process's own shell.",
    )


def _print_exports(launched: LaunchEnvironment) -> None:
    for name, value in launched.completes.items():
        echo(f"export {name}={shlex.quote(value)}")
    if launched.missing:
        be, it = agree(launched.missing, "is", "are"), agree(launched.missing, "it", "them")
        names = ", ".join(launched.missing)
        echo(f"distwatch: {names} {be} not set and cannot be inferred; set {it} yourself", err=True)
    for finding in launched.findings:
        if finding.blocks:
            echo(f"distwatch: {visible_line(finding.summary)}", err=True)


def _print(launched: LaunchEnvironment, pid: int | None) -> None:
    whose = "this shell" if pid is None else f"process {pid}"
    rows: list[tuple[str, ...]] = [("launcher", launched.launcher), ("place", launched.place)]
    made = "" if launched.run_folder_exists else " (not created yet)"
    rows.append(("run", f"{launched.run_id or ''} ({launched.run_id_source})".strip()))
    rows.append(("run folder", f"{launched.run_folder}{made}"))
    _print_rows(whose, rows)
    _print_rows(
        "variables", list(launched.variables.items()) or [("no variables of a launcher", "")]
    )
    if launched.derived:
        _print_rows(
            "derived", [(f"{name}={value}", "") for name, value in launched.completes.items()]
        )
        for sentence in launched.derived:
            echo(f"  {visible_line(sentence)}")
    if launched.missing:
        _print_rows("missing", [(name, "") for name in launched.missing])
    settings = [(one.name, one.value, one.source) for one in launched.settings]
    _print_rows("settings", settings)
    for finding in launched.findings:
        severity = verdict_style(finding.severity, f"{finding.severity}:")
        echo(severity, f" {visible_line(finding.summary)}")
        echo(f"  do: {visible_line(finding.advice)}")
    if not launched.findings:
        echo("sound")
    for complaint in launched.complaints:
        echo(f"distwatch: {visible_line(complaint)}", err=True)


def _print_rows(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    echo(styled(title))
    for line in lay_out(list(rows), width=terminal_width()):
        echo(f"  {line}")
