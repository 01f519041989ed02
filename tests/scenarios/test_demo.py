"""`distwatch demo`: a real job, its verdict, and nothing left of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from distwatch.runfolder import RunFolder
from tests.docs.blocks import assert_shown, blocks_for
from tests.support.folder_watch import FolderWatch
from tests.support.leftovers import end_processes, is_running, processes_of, wait_gone


@pytest.fixture
def root() -> Iterator[str]:
    """A run root of its own; whatever still runs in it afterwards is ended."""
    path = tempfile.mkdtemp(prefix="dw-", dir="/tmp")
    yield path
    end_processes(path)
    volatile = RunFolder(os.path.join(path, "any")).volatile
    if not volatile.startswith(path):
        shutil.rmtree(os.path.dirname(volatile), ignore_errors=True)
    shutil.rmtree(path)


def distwatch(root: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distwatch", *arguments, "--dir", root],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DISTWATCH_DIR": root},
    )


def job_processes(root: str) -> list[int]:
    """The demo's launcher and ranks: all that is left but observers, which end by themselves."""
    return [pid for pid in processes_of(root) if is_running(pid) and "train.py" in command(pid)]


def command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def test_the_default_demo_tells_what_the_readme_shows(root: str) -> None:
    verdict, excerpt = blocks_for("tests/scenarios/test_demo.py")
    demo = distwatch(root, "demo")
    out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, err
    assert_shown(verdict.text, err.splitlines()[0] + "\n" + out)
    assert job_processes(root) == []
    paths = [line for line in out.splitlines() if line.startswith(root)]
    assert {os.path.basename(path) for path in paths} == {"report.md", "report.html"}
    assert all(os.path.getsize(path) for path in paths)
    run_id = paths[0].removeprefix(root + "/").partition("/")[0]
    report = distwatch(root, "report", run_id, "-o", "md")
    told, _ = report.communicate(timeout=60)
    assert report.returncode == 3
    assert_shown(excerpt.text, re.sub(r"\\([_#])|\*\*", r"\1", told))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_the_job_ends_with_the_demo_that_started_it(
    number: signal.Signals, code: int, root: str
) -> None:
    watch = FolderWatch(root)
    demo = distwatch(root, "demo")
    while len(ranks := job_processes(root)) < 1 + 4:
        assert demo.poll() is None, demo.communicate()
        watch.wait(0.5)
    watch.close()
    demo.send_signal(number)
    _, said = demo.communicate()
    assert demo.returncode == code
    assert "Traceback" not in said
    for pid in ranks:
        assert wait_gone(pid, 60), command(pid)
