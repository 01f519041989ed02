"""What it costs to look at a recorded run of very many ranks that hang: CPU seconds of each command.

    python benchmarks/viewer_cost.py [--ranks 10000] [--nodes 1250] [--folder PLACE]

Each command runs once where nothing but the journals is there, as after a kill of the observer, and once with
what an observer leaves at its end. The ranks exist only as the records of real ones (`scale/`), and the root's
verdict is that of the product's own diagnosis. With a folder that holds such a run already, no new one is made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scale.nodes import Node, spread
from scale.ranks import Training

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.journals.recording import Recording
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.link.mirror import Mirror
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, Record

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "many"
HUNG_FOR_NS = 400_000_000_000
COMMANDS = (
    ("status", NAME),
    ("status", NAME, "-o", "json"),
    ("report", NAME),
    ("report", NAME, "-o", "html"),
    ("attach", NAME, "--once"),
)
LEAVE = """
import sys
from distwatch.observer.__main__ import leave_report
from distwatch.runfolder import RunFolder
leave_report(RunFolder(sys.argv[1]))
"""
OPENED = """
import asyncio, sys
from distwatch.observer.targets.resolver import resolve
from distwatch.tui.app import DistwatchApp

async def main():
    app = DistwatchApp(resolve(sys.argv[1], sys.argv[2]).source())
    async with app.run_test(size=(120, 40)) as pilot:
        while app.session.picture.clock_ns is None:
            await pilot.pause()
    assert app.session.picture.verdict.code, app.session.viewer_status()

asyncio.run(main())
"""


async def tell(folder: RunFolder, nodes: Iterable[Node], training: Training) -> None:
    """Writes what all nodes have to say until the root has looked at the hang."""
    mirror = Mirror(folder)
    for node in nodes:
        told: dict[str, tuple[FileHeader, list[Record]]] = {}

        def take(header: FileHeader, record: Record, told: dict = told) -> None:
            told.setdefault(header.stream, (header, []))[1].append(record)

        node.record_sinks.append(take)
        node.hears = lambda: True  # type: ignore[method-assign]
        await node.start_ranks()
        await node.look("a collective is overdue", ask=True)
        for header, records in told.values():
            mirror.keep(header, records)
    mirror.close()


def record_run(root: str, ranks: int, nodes: int) -> None:
    """Records a run whose newest minutes are a hang, and the root's verdict on it."""
    training = Training(ranks, ranks * 3 // 7, deadline_s=60.0)
    training.began_ns -= 2 * HUNG_FOR_NS
    training.hang()
    training.hung_ns -= HUNG_FOR_NS
    folder = RunFolder(f"{root}/{NAME}")
    folder.create()
    asyncio.run(tell(folder, spread(folder.path, nodes, ranks, training), training))
    recording = Recording(folder, lambda *_: None, lambda *_: None)
    findings = tuple(diagnose(load_state(folder)))
    recording.record(ev.FindingsJudged(host=recording.header.host, findings=findings, incident=1))
    recording.close()


def cpu_s(command: list[str], root: str) -> tuple[float, str]:
    """CPU seconds of a command, and the first line that it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "DISTWATCH_DIR": root, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}
    # Byte code is kept, as that of an installed package is.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = f"{root}.byte-code"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    first = next((line for line in done.stdout.splitlines() if line.strip()), done.stderr[-300:])
    return spent, first


def forget(root: str) -> None:
    """Removes what readers left beside the journals."""
    for path in Path(root, NAME).glob("*.checkpoint"):
        path.unlink()


def measure(root: str, *, left_alone: bool) -> None:
    """Prints what each command takes."""
    commands = {
        " ".join(words): [sys.executable, "-m", "distwatch", *words] for words in COMMANDS
    } | {"the TUI, opened": [sys.executable, "-c", OPENED, NAME, root]}
    bare = dict.fromkeys(commands, "-")
    for name, command in commands.items() if not left_alone else ():
        forget(root)
        bare[name] = f"{cpu_s(command, root)[0]:.2f}"
    forget(root)
    cost_s, _ = cpu_s([sys.executable, "-c", LEAVE, f"{root}/{NAME}"], root)
    print(f"the observer leaves the state and the report: {cost_s:.2f} CPU-seconds")
    for name, command in commands.items():
        spent_s, told = cpu_s(command, root)
        print(f"{name}: {bare[name]} with the journals alone, then {spent_s:.2f}   {told[:60]}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=10_000)
    options.add_argument("--nodes", type=int, default=1_250)
    options.add_argument("--folder", default="", help="where such a run is kept, or is to be kept")
    options.add_argument("--left-alone", action="store_true", help="not with the journals alone")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="dw-bench-") as place:
        root = given.folder or f"{place}/root"
        if not os.path.isdir(f"{root}/{NAME}"):
            record_run(root, given.ranks, given.nodes)
        measure(root, left_alone=given.left_alone)


if __name__ == "__main__":
    main()
