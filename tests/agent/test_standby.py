"""Processes without a rank: they enter their run once they have lived a while, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from distwatch.agent import entry, standby
from distwatch.runfolder import RunFolder
from tests.support.environment import inherited_environment
from tests.support.ranks import REPOSITORY

AFTER = "import distwatch.agent.standby as standby; standby.ENTER_AFTER_S = {}\n"
LIVES_ON = """
import os, time
def until(holds, seconds=60):
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "not in time"
        time.sleep(0.01)
def starts():
    root = os.environ["DISTWATCH_DIR"]
    return [n for run in os.listdir(root) for n in os.listdir(f"{root}/{run}") if n.endswith(".start")] \\
        if os.path.isdir(root) else []
"""


def python(code: str, root: Path, **env: str) -> str:
    """Runs a program that imports distwatch.auto by itself; its observer stays off."""
    ours = {"DISTWATCH_DIR": str(root), "DISTWATCH_OBSERVER": "off"}
    environ = {**inherited_environment(), "PYTHONPATH": str(REPOSITORY), **ours, **env}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def records(root: Path) -> list[dict[str, str]]:
    return [one for run in sorted(os.listdir(root)) for one in RunFolder(str(root / run)).starts()]


def test_a_storm_of_short_processes_leaves_nothing(tmp_path: Path) -> None:
    storm = """
import distwatch.auto, os
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert python(AFTER.format(600.0) + storm, tmp_path / "runs") == ""
    assert not (tmp_path / "runs").exists()


def test_its_thread_is_away_while_the_process_forks(tmp_path: Path) -> None:
    """Beside a second thread, Python 3.12 and newer warn of a fork."""
    code = """
import os
tasks = lambda: len(os.listdir("/proc/self/task"))
seen = []
def look():
    until(lambda: tasks() == 1)
    seen.append(tasks())
# What is registered first is called last.
os.register_at_fork(before=look)
import distwatch.auto
assert tasks() == 2
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if tasks() == 2 else 7)
    assert os.waitpid(pid, 0)[1] == 0
assert seen == [1, 1, 1] and tasks() == 2
"""
    python(LIVES_ON + AFTER.format(600.0) + code, tmp_path / "runs")


def test_whoever_lives_on_is_in_one_run_with_the_processes_it_forks(tmp_path: Path) -> None:
    code = """
import distwatch.auto
until(lambda: len(starts()) == 1)
pid = os.fork()
if pid == 0:
    until(lambda: len(starts()) == 2)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    python(LIVES_ON + AFTER.format(0.0) + code, tmp_path / "runs")
    assert len(os.listdir(tmp_path / "runs")) == 1
    roles = {one["role"]: one for one in records(tmp_path / "runs")}
    assert set(roles) == {"other", "child"}
    assert roles["child"]["ppid"] == roles["other"]["pid"]


def test_a_rank_that_forks_is_the_only_one_that_enters(tmp_path: Path) -> None:
    """Its children are seen from outside, as its children."""
    code = """
import distwatch.auto
until(lambda: starts())
pid = os.fork()
if pid == 0:
    os._exit(len(os.listdir("/proc/self/task")))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
"""
    env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    python(LIVES_ON + AFTER.format(0.0) + code, tmp_path / "runs", **env)
    assert [one["role"] for one in records(tmp_path / "runs")] == ["rank"]


def test_who_is_switched_off_has_no_second_thread(tmp_path: Path) -> None:
    code = 'import distwatch.auto, os\nassert len(os.listdir("/proc/self/task")) == 1'
    python(code, tmp_path / "runs", DISTWATCH="0")
    assert not (tmp_path / "runs").exists()


def test_an_agent_that_is_still_being_imported_is_left_to_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    monkeypatch.setattr(entry, "entered_run", lambda: started.append("asked"))
    monkeypatch.setitem(sys.modules, "distwatch.agent.core", types.ModuleType("half imported"))
    standby._watch_observer()
    assert not started
    monkeypatch.delitem(sys.modules, "distwatch.agent.core")
    standby._watch_observer()
    assert started
