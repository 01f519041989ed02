"""`distwatch run`: the command as it would be without us, and the run named so that it is found."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.cli.runs import distwatch

SOURCE = Path(__file__).resolve().parents[2]
SHOW = "import os; print(os.environ['DISTWATCH_RUN_ID'], os.environ['DISTWATCH_DEADLINES'])"
ENDS_WITH_7 = (
    "import os, sys; print(os.environ['DISTWATCH'], os.environ['DISTWATCH_RUN_ID']); sys.exit(7)"
)


def run_in(folder: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distwatch", "run", *arguments],
        env={**os.environ, "DISTWATCH_DIR": str(root)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_output_variables_and_exit_code_are_the_commands(root: Path) -> None:
    done = distwatch(
        "run", "--run-id", "mine", "--", sys.executable, "-c", ENDS_WITH_7, root=root, RANK="0"
    )
    assert (done.returncode, done.stdout) == (7, "1 mine\n")
    assert "distwatch attach mine\n" in done.stderr
    assert "distwatch report mine\n" in done.stderr


def test_a_given_root_is_part_of_what_to_type(root: Path) -> None:
    other = root.parent / "an other root"
    code = "raise SystemExit(3)"
    done = distwatch(
        *("run", "--dir", str(other), "--run-id", "mine", "--", sys.executable, "-c", code),
        root=root,
        RANK="0",
    )
    assert done.returncode == 3
    assert f"distwatch report mine --dir '{other}'" in done.stderr
    assert (other / "mine").is_dir()


def test_a_command_that_recorded_nothing_is_not_sent_to_the_report(root: Path) -> None:
    done = distwatch("run", "--", "false", root=root)
    assert done.returncode == 1
    assert "nothing was recorded" in done.stderr
    assert "has no distwatch installed" in done.stderr
    assert "distwatch report" not in done.stderr


def test_an_id_is_made_up_where_none_is_given(root: Path) -> None:
    done = distwatch("run", "--", "sh", "-c", "echo $DISTWATCH_RUN_ID", root=root)
    assert done.stdout.startswith("run-20")
    assert f"distwatch attach {done.stdout}" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--run-id", "a/b"), "cannot name a run"),
        (("--run-id", "123"), "read as a pid"),
        (("--run-id", "-x"), "cannot name a run"),
        (("--deadlines", "soon"), "is not kind=seconds"),
        (("--deadlines", "initt=3"), "did you mean init?"),
        (("--integrations", "foo"), "There are accelerate, "),
        (("--integrations", "-transfomers"), "Did you mean 'transformers'?"),
        (("--ring", "huge"), "DISTWATCH_RING='huge' is not a size such as 512KiB or 4MiB"),
        (("--ring", "1KiB"), "is not between 64KiB and 256MiB"),
        (("--keep", "for ever"), "is neither all nor AGE,SIZE as in 14d,2GiB"),
        (("--observer", "maybe"), "auto, off or host:port"),
        (("--on-hang", "panic"), "panic"),
        (("--dir", "/etc/passwd"), "is not a folder"),
        (("--bogus",), "--bogus"),
    ],
)
def test_options_without_sense_start_nothing(
    root: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    mark = tmp_path / "started"
    done = distwatch("run", *options, "--", "touch", str(mark), root=root)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not mark.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_command(root: Path, number: signal.Signals) -> None:
    code = (
        f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(9)); "
        "print('up', flush=True); signal.pause()"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "distwatch", "run", "--", sys.executable, "-c", code],
        env={**os.environ, "DISTWATCH_DIR": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"up\n"
        child.send_signal(number)
        assert child.wait(timeout=30) == 9
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the command, too, which holds the pipe
        child.communicate()


def test_the_death_of_the_command_by_a_signal_is_told_as_shells_do(root: Path) -> None:
    assert distwatch("run", "--", "sh", "-c", "kill -9 $$", root=root).returncode == 128 + 9


def test_an_interrupted_python_ends_by_the_signal_as_without_us(root: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = distwatch("run", "--", sys.executable, "-c", code, root=root)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "nothing was recorded" in done.stderr
    assert "installed" not in done.stderr  # it had no time to record anything


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_options_win_over_variables_and_variables_over_the_project(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.distwatch]\nrun-id = 'from-project'\ndeadlines = {init = 7}\n"
    )
    show = ("--", sys.executable, "-c", SHOW)
    assert run_in(tmp_path, root, *show).stdout == "from-project init=7\n"
    monkeypatch.setenv("DISTWATCH_RUN_ID", "from-env")
    done = run_in(tmp_path, root, "--deadlines", "init=3", *show)
    assert done.stdout == "from-env init=3\n", done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.distwatch]\ndeadline = 'init=3'", "The keys are"),
        ("[tool]\ndistwatch = 3", "at `$.tool.distwatch`"),
        ("[tool.distwatch]\nobserver = false", "observer"),
        ("[tool.distwatch", "cannot be read"),
    ],
)
def test_project_settings_without_sense_start_nothing(
    root: Path, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    done = run_in(tmp_path, root, "--", "touch", "started")
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """A Python that finds what distwatch needs, and has no .pth of it: as from a source tree."""
    home = tmp_path / "bare"
    venv.create(home, symlinks=True, with_pip=False)
    places = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    Path(places, "needed.pth").write_text(sysconfig.get_path("purelib"))
    return str(home / "bin" / "python")


def test_a_source_tree_activates_and_hands_on_to_the_next_sitecustomize(
    root: Path, tmp_path: Path, bare_python: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the next one')")
    code = "import sys; print('distwatch.auto' in sys.modules)"
    child = [bare_python, "-c", code]
    environ = {**os.environ, "DISTWATCH_DIR": str(root), "PYTHONPATH": str(tmp_path)}
    environ.pop("DISTWATCH", None)

    def lines(*command: str) -> list[str]:
        done = subprocess.run(
            command,
            env=environ,
            cwd=SOURCE,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    assert lines(*child) == ["the next one", "False"]
    through_us = (bare_python, "-m", "distwatch", "run", "--", *child)
    # The first line is of our own Python, which is started with the same PYTHONPATH.
    assert lines(*through_us) == ["the next one", "the next one", "True"]
