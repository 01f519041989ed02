"""The tests of the tests: whatever happens in one, the run ends, and says what happened."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OTHERS = """
import os, signal, threading, pytest

@pytest.mark.parametrize("number", range(24))
def test_other(number):
    pass
"""


def run_pytest(folder: Path, *arguments: str, how: str = "exec {}") -> tuple[int, str]:
    """The exit code and all output of pytest on a folder of tests, started by a shell in that way."""
    settings = "[pytest]\ntimeout = 2\ntimeout_method = signal\ngrace = 1\n"
    (folder / "pytest.ini").write_text(settings)
    plugins = ("xdist", "pytest_timeout", "tests.support.endings")
    command = [sys.executable, "-m", "pytest", *(f"-p{name}" for name in plugins), *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environ |= {"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # Not a pipe, which a process that is left behind would keep open.
    with open(folder / "output", "wb") as output:
        started = subprocess.Popen(
            ["sh", "-c", how.format(shlex.join(command))],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = started.wait(100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    return code, (folder / "output").read_text()


DEATHS = {
    "exits": "os._exit(0)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "leaves a fork behind": "os.fork() or signal.pause(); os._exit(0)",
}


@pytest.mark.parametrize(
    ("death", "place"),
    [("exits", "first"), ("exits", "last"), ("killed", "last"), ("leaves a fork behind", "first")],
)
def test_a_worker_that_dies_is_a_failure_and_the_run_ends(
    tmp_path: Path, death: str, place: str
) -> None:
    dies = f"def test_dies():\n    {DEATHS[death]}\n"
    head, body = OTHERS.split("\n\n")
    parts = (head, dies, body) if place == "first" else (head, body, dies)
    (tmp_path / "test_inner.py").write_text("\n\n".join(parts))
    code, output = run_pytest(tmp_path, "-n2", "--dist", "loadgroup")
    assert code == 1, output
    assert "crashed while running 'test_inner.py::test_dies'" in output


HANGS = """
import os, signal, threading

def test_hangs_in_a_call():
    threading.Event().wait()

def test_of_the_same_process():
    pass

def test_hangs_where_no_signal_comes():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    threading.Event().wait()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_that_hangs_fails_at_its_deadline_and_the_run_ends(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "test_inner.py").write_text(HANGS)
    code, output = run_pytest(tmp_path, f"-n{workers}", "-v")
    assert code == 1, output
    verdicts = [line for line in output.splitlines() if "test_of_the_same_process" in line]
    assert "FAILED" in output, "the first one, by its deadline"
    assert any("PASSED" in line for line in verdicts), "it fails alone"
    assert "in test_hangs_where_no_signal_comes" in output, "the stack at the end"


def test_in_the_background_signals_reach_what_tests_start(tmp_path: Path) -> None:
    """As `nohup make test &` starts it: SIGINT, SIGQUIT and SIGHUP are ignored."""
    test = "tests/cli/test_run.py::test_signals_reach_the_command"
    own = f"-c{REPOSITORY}/pyproject.toml", "-ppytest_asyncio.plugin", "-n0", f"{REPOSITORY}/{test}"
    code, output = run_pytest(tmp_path, *own, how="trap '' INT QUIT HUP; exec {} <&-")
    assert code == 0, output
    assert "3 passed" in output
