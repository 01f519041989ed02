"""Matching what many ranks' flight recorders hold, beside torch's own analyzer on the same dumps.

Synthetic NCCL-shaped dumps: a world of ranks in a default group and groups of eight, 2,000
entries each, with a fault or none. What reading the files costs is told apart from matching.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.assembly import streams_of_evidence
from distwatch.dumps.evidence import read_evidence
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

WIDTH = 8
FAULTS = ("healthy", "rank missing", "other operation", "other size")
START_NS = 1_800_000_000_000_000_000


def entries_of(rank: int, count: int, fault: str, culprit: int) -> list[dict[str, Any]]:
    """A rank's ring: three collectives of its small group for each of the whole world."""
    groups = {"0": "default_pg", str(1 + rank // WIDTH): f"tp_{rank // WIDTH}"}
    (world, small), seqs = groups, dict.fromkeys(groups, 0)
    entries: list[dict[str, Any]] = []
    for number in range(count):
        name = world if number % 4 == 3 else small
        seqs[name] += 1
        last = name == world and number >= count - 4
        over = not last or fault == "healthy"
        op, size = "all_reduce", 1024
        if last and rank == culprit:
            if fault == "rank missing":
                break
            op = "broadcast" if fault == "other operation" else op
            size = 512 if fault == "other size" else size
        entries.append(
            {
                "record_id": number, "pg_id": int(name), "process_group": (name, groups[name]),
                "collective_seq_id": seqs[name], "p2p_seq_id": 0, "op_id": number,
                "profiling_name": f"nccl:{op}", "time_created_ns": START_NS + number * 1_000_000,
                "input_sizes": [[size]], "input_dtypes": ["Float"], "output_sizes": [[size]],
                "output_dtypes": ["Float"], "state": "completed" if over else "started",
                "time_discovered_started_ns": None, "time_discovered_completed_ns": None,
                "retired": over, "timeout_ms": 600000, "is_p2p": False, "frames": [],
            }
        )  # fmt: skip
    return entries


def write_dumps(folder: Path, ranks: int, count: int, fault: str) -> int:
    """Writes one file a rank; the rank at fault."""
    culprit = ranks // 3
    for rank in range(ranks):
        small = [r for r in range(ranks) if r // WIDTH == rank // WIDTH]
        dump = {
            "version": "2.10",
            "pg_config": {
                "0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(ranks)))},
                str(1 + rank // WIDTH): {
                    "name": str(1 + rank // WIDTH), "desc": f"tp_{rank // WIDTH}", "ranks": str(small),
                },
            },
            "entries": entries_of(rank, count, fault, culprit),
        }  # fmt: skip
        (folder / f"nccl_trace_rank_{rank}").write_bytes(pickle.dumps(dump))
    return culprit


def ours(folder: Path) -> tuple[float, float, str]:
    """Seconds of reading, seconds of matching, and the verdict."""
    began = time.perf_counter()
    streams = streams_of_evidence(read_evidence([str(folder)]))
    state = RunState(run_id="bench")
    read = time.perf_counter()
    for stream in streams:
        for seq, (time_ns, event) in enumerate(stream.events, 1):
            reduce(state, stream.header, seq, time_ns, event)
    findings = diagnose(state)
    done = time.perf_counter()
    told = "; ".join(f"{f.code} {list(f.culprit_ranks)}" for f in findings if f.role == "root")
    return read - began, done - read, told or "no findings"


def torchs(folder: Path) -> tuple[float, float, str]:
    """The same of torch's analyzer: `torchfrtrace DIR`."""
    from torch.distributed.flight_recorder.components.builder import build_db
    from torch.distributed.flight_recorder.components.config_manager import JobConfig
    from torch.distributed.flight_recorder.components.loader import read_dir

    arguments = JobConfig().parse_args([str(folder), "-p", "nccl_trace_rank_"])
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("Flight Recorder")
    logger.handlers[:] = [handler]
    began = time.perf_counter()
    details, version = read_dir(arguments)
    read = time.perf_counter()
    build_db(details, arguments, version)
    done = time.perf_counter()
    words = [line for line in said if line.startswith(("error msg", "missing ranks"))]
    return read - began, done - read, words[0][:160] if words else "nothing"


def rows(arguments: argparse.Namespace) -> Iterable[str]:
    yield "| fault | ours: read s | match s | verdict | torchfrtrace: read s | match s | its words |"
    yield "|---|---:|---:|---|---:|---:|---|"
    for fault in FAULTS:
        with tempfile.TemporaryDirectory(prefix="dw-bench-") as name:
            culprit = write_dumps(Path(name), arguments.ranks, arguments.entries, fault)
            for path in Path(name).iterdir():
                os.utime(path, ns=(START_NS + 10**11, START_NS + 10**11))
            mine = ours(Path(name))
            theirs = torchs(Path(name)) if arguments.torch else (0.0, 0.0, "not run: --torch")
        title = fault if fault == "healthy" else f"{fault}: {culprit}"
        yield (
            f"| {title} | {mine[0]:.1f} | {mine[1]:.2f} | `{mine[2]}` "
            f"| {theirs[0]:.1f} | {theirs[1]:.2f} | {theirs[2]} |"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=1024)
    options.add_argument("--entries", type=int, default=2000)
    options.add_argument("--torch", action="store_true", help="torch's analyzer, too: minutes")
    arguments = options.parse_args()
    for row in rows(arguments):
        print(row, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"\n{arguments.ranks} ranks, {arguments.entries} entries each; peak memory {peak} MiB")


if __name__ == "__main__":
    main()
