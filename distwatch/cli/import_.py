"""`distwatch import PATH…`: what a job without distwatch left, as a run, with the verdict."""

from __future__ import annotations

import os
import re

import click

from distwatch.cli.options import PARTIAL, exit_code_of, output_option, put_out, root_option
from distwatch.cli.terminal import echo
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.assembly import streams_of_evidence
from distwatch.dumps.evidence import read_evidence
from distwatch.dumps.files import STDIN
from distwatch.dumps.imported import Stream
from distwatch.errors import PartialData
from distwatch.observer.incidents import write_incident
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.journals.segments import Segment
from distwatch.report.document import build_report
from distwatch.report.formats import render
from distwatch.runfolder import RunFolder
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader, Record
from distwatch.visible_text import visible_line


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@output_option("md", "json")
@root_option
def command(paths: tuple[str, ...], output: str, root: str) -> int:
    """Read what a job without distwatch left, into a run with a verdict.

    PATH is a file, a folder or - for standard input. Files are told apart by their content:
    flight-recorder dumps, py-spy (text and JSON), faulthandler, pystack, the folder of torch's debug
    server, NCCL RAS (text and JSON), dmesg, and logs of torchrun, Slurm, MPI, Ray and kubectl. Name all
    that you have of one job at once: together they decide more. Exits with 3 if a hang or a crash
    was found, with 6 if files could not be read.
    """
    evidence = read_evidence(paths)
    for name, why in sorted(evidence.refused.items()):
        echo(f"distwatch: not read: {visible_line(name)}: {visible_line(why)}", err=True)
    streams = streams_of_evidence(evidence)
    if len(streams) < 2:
        raise PartialData(
            f"{', '.join(paths)}: nothing there says anything about a rank",
            advice="Name the job's logs (torchrun's --log-dir, the scheduler's output file), stacks "
            "(`py-spy dump --pid PID`), or the dumps of TORCH_NCCL_DEBUG_INFO_TEMP_FILE.",
        )
    # What cannot be written must not leave half a run behind.
    written = [(stream.header, _records(stream)) for stream in streams]
    folder = _new_folder(root, paths[0])
    for header, records in written:
        _write(folder, header, records)
    state = load_state(folder)
    findings = diagnose(state)
    report = build_report(state, findings, folder.run_id)
    write_incident(folder, state, findings, 1)
    put_out(render(report, output), None)
    echo(
        f"distwatch: {evidence.files - len(evidence.refused)} files imported into {folder.path}",
        err=True,
    )
    echo(f"distwatch: see `distwatch replay {folder.run_id}`", err=True)
    return exit_code_of(report) or (PARTIAL if evidence.refused else 0)


def _new_folder(root: str, path: str) -> RunFolder:
    said = "stdin" if path == STDIN else os.path.basename(os.path.abspath(path))
    name = re.sub(r"[^\w.-]+", "-", said)[:60] or "dumps"
    number = 1
    while os.path.exists(os.path.join(root, f"imported-{name}-{number}")):
        number += 1
    folder = RunFolder(os.path.join(root, f"imported-{name}-{number}"))
    folder.create()
    return folder


def _records(stream: Stream) -> list[Record]:
    return [
        Record(seq=seq, time_ns=time_ns, payload=encode_event(event))
        for seq, (time_ns, event) in enumerate(stream.events, 1)
    ]


def _write(folder: RunFolder, header: FileHeader, records: list[Record]) -> None:
    stem = re.sub(r"[^\w.-]+", "-", header.stream)
    segment = Segment(folder.journal(stem), header)
    try:
        segment.append(records)
    finally:
        segment.close()
