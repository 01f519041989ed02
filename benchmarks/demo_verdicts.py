"""Whether every view says one verdict: each case of `distwatch demo`, again and again.

A demo's printed verdict is compared with what the code of the case expects; then, once its job has been
ended, `report`, `ps`, `status` and the last frame of a replay are compared with each other, and with the
live one: the same root, which its end must not have changed. `--busy` keeps every core at work meanwhile. The
folder of a run that differs is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time

from distwatch.demo import CASES
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.runfolder import RunFolder
from distwatch.tui.picture import take_picture

TIMEOUT_S = 240.0
Root = tuple[str, str, tuple[int, ...]]
"""Word, code and culprits."""


def spin() -> None:
    """Uses up a core."""
    while True:
        pass


def distwatch(root: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "distwatch", *arguments, "--dir", root],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "DISTWATCH_DIR": root},
    )


def told_by(document: dict[str, object]) -> Root:
    """The verdict of a JSON document."""
    verdict = document["verdict"]
    assert isinstance(verdict, dict)
    return verdict["word"], verdict["code"], tuple(verdict["culprit_ranks"])


async def last_frame(folder: RunFolder) -> Root:
    """The verdict that a replay shows at its end."""
    source = RecordedRun(folder)
    await source.open()
    verdict = take_picture(source.state, folder.run_id).verdict
    await source.close()
    return verdict.word, verdict.code, verdict.culprit_ranks


def run_once(case: str, root: str) -> list[str]:
    """One demo; what differs, in words."""
    demo = distwatch(root, "demo", case, "--no-tui")
    first = next(iter(demo.stdout.splitlines()), demo.stderr[-300:])
    wrong = [f"the demo ended with {demo.returncode}: {first}"] if demo.returncode else []
    (run,) = json.loads(distwatch(root, "ps", "-o", "json").stdout)["runs"]
    views = {
        "ps": told_by(run),
        "status": told_by(json.loads(distwatch(root, "status", "-o", "json").stdout)),
        "report": told_by(
            json.loads(distwatch(root, "report", run["run_id"], "-o", "json").stdout)
        ),
        "replay": asyncio.run(last_frame(RunFolder(run["path"]))),
    }
    chosen = CASES[case]
    for view, (word, code, culprits) in views.items():
        if (code, culprits) != (chosen.expected_code, chosen.culprit_ranks):
            wrong.append(f"{view}: {word} {code} {culprits}")
        if not first.startswith(f"{word}: ") and chosen.expected_code:
            wrong.append(f"{view} says {word}, the demo said {first}")
    return wrong


def main() -> None:
    """Runs the cases and prints a line for each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("cases", nargs="*", default=list(CASES))
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--busy", action="store_true", help="keep every core busy")
    chosen = options.parse_args()
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in busy if chosen.busy else ():
        process.start()
    differing = 0
    for case in chosen.cases:
        for number in range(1, chosen.times + 1):
            began = time.monotonic()
            root = tempfile.mkdtemp(prefix="dw-verdicts-", dir="/tmp")
            if wrong := run_once(case, root):
                wrong.append(f"kept in {root}")
            else:
                shutil.rmtree(root)
            took = f"{time.monotonic() - began:.0f} s"
            print(
                f"{case} {number}/{chosen.times} ({took}): {'; '.join(wrong) or 'one verdict'}",
                flush=True,
            )
            differing += bool(wrong)
    for process in busy if chosen.busy else ():
        process.kill()
    print(f"{differing} of {len(chosen.cases) * chosen.times} runs differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
