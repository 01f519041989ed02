"""`distwatch doctor`: is this machine fit for a job, and for watching one?"""

from __future__ import annotations

import os

import click
import msgspec

from distwatch.cli.options import color_option, output_option, root_option
from distwatch.cli.terminal import echo, echo_json, styled
from distwatch.preflight.machine import examine
from distwatch.redaction import redact_text
from distwatch.runfolder import host_name
from distwatch.visible_text import visible_line

SCHEMA = "distwatch.doctor/1"
_COLORS = {"pass": "green", "warn": "yellow", "fail": "red"}


@click.command()
@output_option("table", "json")
@root_option
@color_option
def command(output: str, root: str) -> int:
    """Check this machine: rights, py-spy, GPUs, memory, network, versions; each problem with its fix.

    Exits with 1 if a check fails; with warnings alone, with 0.
    """
    checked = [
        msgspec.structs.replace(one, detail=redact_text(one.detail))
        for one in examine(os.environ, root)
    ]
    counts = {status: sum(one.status == status for one in checked) for status in _COLORS}
    if output == "json":
        checks = msgspec.to_builtins(checked)
        echo_json({"schema": SCHEMA, "host": host_name(), "counts": counts, "checks": checks})
    else:
        width = max(len(one.what) for one in checked)
        for one in checked:
            mark = styled(one.status.ljust(4), color=_COLORS[one.status], bold=one.status != "pass")
            echo(mark, f"  {one.what.ljust(width)}  {visible_line(one.detail)}")
            if one.fix:
                echo(f"{'':{width + 8}}do: {visible_line(one.fix)}")
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        echo(f"distwatch: {told}", err=True)
    return 1 if counts["fail"] else 0
