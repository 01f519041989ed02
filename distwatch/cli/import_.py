"""`distwatch import DIR`: dumps that torch or py-spy left, as a run, with the verdict."""

from __future__ import annotations

import os
import re

import click

from distwatch.cli.options import PARTIAL, exit_code_of, output_option, put_out, root_option
from distwatch.cli.terminal import echo
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.files import read_dumps
from distwatch.dumps.imported import Stream, streams_of
from distwatch.errors import PartialData
from distwatch.observer.incidents import write_incident
from distwatch.observer.journals.reading import load_state
from distwatch.observer.journals.segments import Segment
from distwatch.report.document import build_report
from distwatch.report.formats import render
from distwatch.runfolder import RunFolder
from distwatch.state.events import encode_event
from distwatch.state.frames import Record
from distwatch.visible_text import visible_line


@click.command()
@click.argument("path", metavar="DIR")
@output_option("md", "json")
@root_option
def command(path: str, output: str, root: str) -> int:
    """Read flight-recorder dumps (pickle, as plain data only, or JSON) and py-spy's JSON into a run.

    A file's name says its rank: nccl_trace_rank_3, rank3.json. Exits with 3 if a hang was found, with
    6 if ranks or files are missing.
    """
    dumps, refused = read_dumps(path)
    for name, why in sorted(refused.items()):
        echo(f"distwatch: not read: {visible_line(name)}: {visible_line(why)}", err=True)
    if not dumps:
        raise PartialData(
            f"{path} holds no dump of any rank",
            advice="Dumps are written by TORCH_NCCL_DEBUG_INFO_TEMP_FILE, by "
            "torch._C._distributed_c10d._dump_fr_trace, or by `py-spy dump --json`.",
        )
    folder = _new_folder(root, path)
    for stream in streams_of(dumps, refused):
        _write(folder, stream)
    state = load_state(folder)
    findings = diagnose(state)
    report = build_report(state, findings, folder.run_id)
    write_incident(folder, state, findings, 1)
    put_out(render(report, output), None)
    echo(f"distwatch: {len(dumps)} ranks imported into {folder.path}", err=True)
    echo(f"distwatch: see `distwatch replay {folder.run_id}`", err=True)
    return exit_code_of(report) or (PARTIAL if refused else 0)


def _new_folder(root: str, path: str) -> RunFolder:
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(os.path.abspath(path)))[:60] or "dumps"
    number = 1
    while os.path.exists(os.path.join(root, f"imported-{name}-{number}")):
        number += 1
    folder = RunFolder(os.path.join(root, f"imported-{name}-{number}"))
    folder.create()
    return folder


def _write(folder: RunFolder, stream: Stream) -> None:
    stem = re.sub(r"[^\w.-]+", "-", stream.header.stream)
    segment = Segment(folder.journal(stem), stream.header)
    try:
        segment.append(
            [
                Record(seq=seq, time_ns=time_ns, payload=encode_event(event))
                for seq, (time_ns, event) in enumerate(stream.events, 1)
            ]
        )
    finally:
        segment.close()
