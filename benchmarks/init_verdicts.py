"""Worlds that do not form: how long and with which words plain torch ends, and distwatch's finding.

Each case runs twice with real gloo ranks: without distwatch until every rank has ended (torch's
timeout is 12 s, its default 30 min), and with it until the observer has its finding. Seconds
count from the moment the last rank has begun its initialization.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distwatch.observer.journals.run_state import load_state
from distwatch.runfolder import RunFolder

TIMEOUT_S = 12
DEADLINE_S = 8
PLAIN_LIMIT_S = 45
RANK = """
import os, sys, time
exec(os.environ.get("BEFORE", ""))
if os.environ["DISTWATCH"] == "1":
    import distwatch.auto
import torch.distributed as dist
from datetime import timedelta
open(os.environ["BEGUN"], "a").write("%f\\n" % time.time())
dist.init_process_group(os.environ.get("BACKEND", "gloo"), timeout=timedelta(seconds=12))
exec(os.environ.get("AFTER", ""))
time.sleep(60)
"""
Variables = dict[str, str]
Started = tuple[list[subprocess.Popen[str]], Path]


def ranks(world: int, *chosen: int, **each: Variables) -> list[Variables]:
    """Variables of the ranks that start; `r1={…}` are more of rank 1's."""
    return [
        {"RANK": str(rank), "WORLD_SIZE": str(world), **each.get(f"r{rank}", {})}
        for rank in chosen or range(world)
    ]


LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
SERVE = "import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
KILL_SOON = "import threading, signal; threading.Timer(4, lambda: os.kill(os.getpid(), 9)).start()"
CASES: dict[str, tuple[list[Variables], str]] = {
    "rank 2 of 3 never starts": (ranks(3, 0, 1), ""),
    "rank 0 of 3 never starts": (ranks(3, 1, 2), ""),
    "rank 1 raises before it arrives": (ranks(3, r1={"BEFORE": "import no_such_module"}), ""),
    "rank 1 is elsewhere": (ranks(3, r1={"BEFORE": "time.sleep(99)"}), ""),
    "WORLD_SIZE 3 and 2": (ranks(3, 0, 1, r1={"WORLD_SIZE": "2"}), ""),
    "two processes are rank 1": (ranks(3, 0, 1, 1), ""),
    "rank 5 of 2": (ranks(2, 0, 5), ""),
    "another MASTER_PORT on rank 2": (ranks(3, r2={"MASTER_PORT": "9"}), ""),
    "MASTER_ADDR does not resolve": (ranks(2, 1, r1={"MASTER_ADDR": "no-such.invalid"}), ""),
    "an HTTP server has the port": (ranks(2), SERVE),
    "a mute listener has the port": (ranks(2), LISTEN),
    "the store's host is killed after 4 s": (ranks(3, 0, 1, r0={"BEFORE": KILL_SOON}), ""),
    "no RANK": ([{"WORLD_SIZE": "2"}], ""),
    "backend xla without torch_xla": (ranks(1, r0={"BACKEND": "xla"}), ""),
    "GLOO_SOCKET_IFNAME names nothing": (ranks(2, r1={"GLOO_SOCKET_IFNAME": "no0"}), ""),
}


@contextmanager
def job(variables: list[Variables], other: str, root: str, dark: bool) -> Iterator[Started]:
    """Starts the other program, waits until it listens, and then the ranks; ends them all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = Path(root, "begun")
    begun.write_text("")
    command = [sys.executable, "-c", other.format(port=port)]
    foreign = [subprocess.Popen(command, stderr=subprocess.DEVNULL)] if other else []
    while other and not _listens(port):
        time.sleep(0.05)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "BEGUN": str(begun),
                "DISTWATCH": "0" if dark else "1",
                "DISTWATCH_DIR": root,
                "DISTWATCH_RUN_ID": "case",
                "DISTWATCH_DEADLINES": f"init={DEADLINE_S}",
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
                "LOCAL_RANK": one.get("RANK", "0"),
                "LOCAL_WORLD_SIZE": one.get("WORLD_SIZE", "1"),
                **one,
            },
        )
        for one in variables
    ]
    try:
        yield started, begun
    finally:
        for process in [*started, *foreign]:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def began(begun: Path) -> float:
    times = [float(line) for line in begun.read_text().split()]
    return max(times, default=time.time())


def plain(variables: list[Variables], other: str) -> tuple[str, str]:
    """Seconds until the last rank ended, and the last words of the first that did."""
    with (
        tempfile.TemporaryDirectory() as root,
        job(variables, other, root, True) as (started, begun),
    ):
        limit = time.time() + PLAIN_LIMIT_S
        while time.time() < limit and any(process.poll() is None for process in started):
            time.sleep(0.1)
        ended = [process for process in started if process.poll() is not None]
        silent = len(started) - len(ended)
        seconds = f"{time.time() - began(begun):.1f}"
        seconds = f"> {PLAIN_LIMIT_S}, {silent} silent" if silent else seconds
        words = [_last_words(process) for process in ended]
        return seconds, next((one for one in words if one), "nothing")


def _last_words(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = [
        line
        for line in process.stderr.read().splitlines()
        if "Error" in line and "frame #" not in line
    ]
    return lines[-1].strip()[:110] if lines else ""


def watched(variables: list[Variables], other: str) -> tuple[str, str, str]:
    """Seconds until the observer's finding, its code and culprits, and its words."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as root,
        job(variables, other, root, False) as (_, begun),
    ):
        limit = time.time() + PLAIN_LIMIT_S
        while time.time() < limit:
            found = _findings(RunFolder(os.path.join(root, "case")))
            if found:
                first = found[0]
                ranks_told = f" {list(first.culprit_ranks)}" if first.culprit_ranks else ""
                return (
                    f"{time.time() - began(begun):.1f}",
                    f"{first.code}{ranks_told}",
                    first.summary[:150],
                )
            time.sleep(0.1)
        return f"> {PLAIN_LIMIT_S}", "nothing", ""


def _findings(folder: RunFolder):  # type: ignore[no-untyped-def]
    try:
        return load_state(folder).recorded_findings
    except Exception:
        return ()


def main(chosen: Callable[[str], bool] = lambda _: True) -> None:
    print(
        "| case | plain torch: s | its words | distwatch: s | finding | its words |\n|---|---:|---|---:|---|---|"
    )
    for name, (variables, other) in CASES.items():
        if not chosen(name):
            continue
        bare_s, words = plain(variables, other)
        found_s, code, summary = watched(variables, other)
        cells = [name, bare_s, words, found_s, code, summary]
        print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(lambda name: not words or any(word in name for word in words))
