"""`distwatch import` beside torch's own `torchfrtrace` on the same dumps: words, seconds and memory.

Each runs as its users run it, in a process of its own. The dumps are those of real NCCL jobs with known
faults (tests/dumps/data), with all files and without those of the ranks at fault.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "tests/dumps/data"
FAULTS = {"gpu_error_1st": (12, 14), "lock_gil_1st": (9, 14)}
PREFIX = "_dump_"
_MISSING = re.compile(r"missing ranks: \{([\d, ]*)\}")


class Told(NamedTuple):
    """What a tool said of a folder, and what it took."""

    seconds: float
    peak_mb: float
    lines: int
    words: str


def run(command: list[str], folder: Path) -> tuple[str, float, float]:
    """Standard output and error together, seconds, and the peak of the memory in MB."""
    out = folder / "said"
    began = time.perf_counter()
    with out.open("wb") as file:
        environment = {**os.environ, "DISTWATCH_DIR": str(folder / "runs")}
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd in (1, 2)]
        pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
        _, _, usage = os.wait4(pid, 0)
    return out.read_text(errors="replace"), time.perf_counter() - began, usage.ru_maxrss / 1024


def ours(dumps: Path, scratch: Path) -> Told:
    """Our verdict: the findings that name a first cause; ignoring what is said beside the report."""
    command = [sys.executable, "-m", "distwatch.cli", "import", "-o", "json", str(dumps)]
    said, seconds, peak = run(command, scratch)
    report, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    found = report["findings"]
    roots = [f"{f['code']} {f['culprit_ranks']}" for f in found if f["role"] == "root"]
    return Told(seconds, peak, len(found), "; ".join(roots))


def torchs(dumps: Path, scratch: Path) -> Told:
    """torch's: it has no verdict, so all ranks that it calls missing, and how often."""
    main = "from torch.distributed.flight_recorder.fr_trace import main; main()"
    command = [sys.executable, "-c", main, str(dumps), "-p", PREFIX, "--allow-incomplete-ranks"]
    said, seconds, peak = run(command, scratch)
    lists = _MISSING.findall(said)
    ranks = sorted({int(rank) for one in lists for rank in one.split(",") if rank.strip()})
    words = f"{len(lists)} times `missing ranks`, of {len(ranks)} ranks: {ranks}"
    error = next((line for line in said.splitlines() if "Error" in line), "")
    return Told(seconds, peak, said.count("\n"), words if lists else error or "nothing")


def main() -> None:
    print("| dumps | at fault | tool | seconds | MB | lines or findings | words |")
    print("|---|---|---|---:|---:|---:|---|")
    for name, ranks in FAULTS.items():
        for gone in ((), ranks):
            with tempfile.TemporaryDirectory(prefix="dw-bench-") as root:
                scratch, dumps = Path(root), Path(root) / "dumps"
                left_out = shutil.ignore_patterns(*(f"{PREFIX}{rank}" for rank in gone))
                shutil.copytree(DATA / name, dumps, ignore=left_out)
                (scratch / "runs").mkdir(mode=0o700)
                title = f"{name} without {', '.join(map(str, gone))}" if gone else name
                for tool, look in (("distwatch import", ours), ("torchfrtrace", torchs)):
                    told = look(dumps, scratch)
                    print(
                        f"| {title} | {list(ranks)} | {tool} | {told.seconds:.1f} | {told.peak_mb:.0f} "
                        f"| {told.lines} | {told.words} |"
                    )


if __name__ == "__main__":
    main()
