"""What the commands print: for people, for programs, and never more than was asked for."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.errors import DistwatchError
from distwatch.runfolder import RunFolder, start_ticks
from distwatch.state import events as ev
from tests.cli.runs import call, distwatch, rings, save
from tests.diagnosis.recorded import RecordedJob, hung_job

ESCAPE = "\x1b"


@pytest.fixture
def ended_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_every_json_names_its_schema(hung: Path) -> None:
    for arguments, schema in (
        (("ps", "-o", "json"), "distwatch.ps/1"),
        (("status", "hung", "-o", "json"), "distwatch.status/1"),
        (("stacks", "hung", "-o", "json"), "distwatch.stacks/1"),
        (("report", "hung", "-o", "json"), "distwatch.report/1"),
    ):
        assert json.loads(call(*arguments, root=hung).stdout)["schema"] == schema
    for command in ("ps", "status"):
        lines = call(command, "-o", "ndjson", root=hung).stdout.splitlines()
        assert lines
        assert all(json.loads(line)["schema"] == f"distwatch.{command}/1" for line in lines)


@pytest.mark.parametrize("command", ["ps", "status"])
def test_colour_is_for_those_who_ask_for_it(hung: Path, command: str) -> None:
    assert ESCAPE not in call(command, root=hung).stdout
    assert ESCAPE not in call(command, "--color", "never", root=hung).stdout
    # CliRunner overrules the context's choice: the real command shows it.
    assert ESCAPE in distwatch(command, "--color", "always", root=hung).stdout
    assert ESCAPE not in distwatch(command, "--color", "auto", root=hung).stdout
    assert ESCAPE in distwatch("attach", "hung", "--once", "--color", "always", root=hung).stdout


def test_text_of_a_process_cannot_steer_the_terminal(root: Path) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.say(
        1, 5.0, ev.ExceptionUncaught(type_name="ValueError", message=f"a{ESCAPE}]0;b\x07\nc | d")
    )
    job.exit(1, 6.0, code=1)
    save(job, root, "rude")
    for output in ("table", "md"):
        done = call("status", "rude", "-o", output, root=root)
        assert done.return_value == 3
        assert not {ESCAPE, "\x07"} & set(done.stdout)
        assert "ValueError" in done.stdout


def test_a_terminal_without_the_letters_gets_their_numbers(hung: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distwatch", "attach", "hung", "--once", "--dir", str(hung)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, b"")
    assert b"\\u25a0 HANG" in done.stdout


@pytest.mark.parametrize("command", ["report", "status"])
def test_a_reader_that_leaves_is_no_failure(hung: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "distwatch", command, "hung", "--dir", str(hung)],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_report_writes_to_a_device_without_replacing_it(hung: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    done = distwatch("report", "hung", "--output", str(pipe), root=hung)
    assert done.returncode == 3, done.stderr
    assert b"never" in os.read(reader, 1 << 20)
    os.close(reader)
    assert pipe.is_fifo()
    missing = distwatch("report", "hung", "--output", str(tmp_path / "no" / "x"), root=hung)
    assert (missing.returncode, missing.stdout) == (2, "")


def test_rings_that_no_observer_ever_copied_give_the_verdict(root: Path, ended_pid: int) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.say(1, 5.0, ev.ExceptionUncaught(type_name="ValueError", message="no such shard"))
    rings(RunFolder(str(root / "killed")), job, {0: (ended_pid, 5), 1: (ended_pid + 1, 6)})
    done = call("report", "killed", "-o", "json", root=root)
    finding = json.loads(done.stdout)["findings"][0]
    assert (finding["code"], finding["culprit_ranks"]) == ("process.exited", [1])
    assert done.return_value == 3


def test_a_run_that_is_gone_is_not_shown_as_if_it_went_on(root: Path, ended_pid: int) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    rings(RunFolder(str(root / "gone")), job, {0: (ended_pid, 5), 1: (ended_pid + 1, 6)})
    told = json.loads(call("status", "-o", "json", root=root).stdout)
    assert {rank["state"] for rank in told["ranks"]} == {"exited"}
    assert told["run"]["ended"]
    assert (told["verdict"]["word"], told["verdict"]["summary"]) == (
        "info",
        "ranks 0-1 ended; nobody saw how",
    )


def test_a_process_without_a_rank_is_visible_before_it_calls_anything(root: Path) -> None:
    me = os.getpid()
    folder = RunFolder(str(root / "single"))
    folder.create()
    Path(folder.path, f"{os.uname().nodename}-{me}.start").write_text(
        f"pid={me}\nticks={start_ticks(me)}\nppid=1\nhost={os.uname().nodename}\nrole=other\n"
    )
    told = json.loads(call("status", str(me), "-o", "json", root=root).stdout)
    (process,) = told["processes"]
    assert (process["pid"], process["role"], told["ranks"]) == (me, "no rank yet", [])


def test_a_job_without_distwatch_is_mentioned(root: Path) -> None:
    launcher = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    job = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **launcher},
    )  # fmt: skip
    assert job.stdout is not None
    job.stdout.readline()
    for command in ("ps", "status"):
        said = distwatch(command, root=root).stderr
        assert f"`distwatch attach {job.pid}`" in said
    job.communicate(b"\n")


def test_a_living_rank_belongs_to_its_run(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    me = os.getpid()
    rings(RunFolder(str(root / "mine")), job, {0: (me, start_ticks(me))})
    runs = json.loads(call("ps", "-o", "json", root=root).stdout)["runs"]
    assert [(run["run_id"], run["ranks_alive"], run["alive"]) for run in runs] == [
        ("mine", 1, True)
    ]
    report = json.loads(call("report", str(me), "-o", "json", root=root).stdout)
    assert report["run"]["id"] == "mine"


def test_stacks_of_ranks_that_are_not_here_are_called_old(root: Path) -> None:
    # Their pids on node1 are nobody's or somebody else's here: nothing may be read of those.
    save(hung_job(), root, "far")
    done = distwatch("stacks", "far", "-o", "json", root=root)
    document = json.loads(done.stdout)
    assert document["recorded_ranks"] == [0, 1, 2, 3]
    assert document["unobserved"] == {}
    assert (done.returncode, "ranks 0-3" in done.stderr) == (0, True)


def test_a_rank_without_any_stack_is_named(root: Path) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.stack(0, 4.0, (ev.Frame(function="main", file="/job/train.py", line=9),))
    save(job, root, "half")
    done = distwatch("stacks", "half", "-o", "json", root=root)
    assert done.returncode == 6
    assert json.loads(done.stdout)["unobserved"] == {
        "1": "it is on node1, and no stack of it was recorded"
    }


def test_a_folder_of_garbage_is_no_healthy_run(root: Path) -> None:
    garbage = root / "garbage"
    garbage.mkdir(parents=True)
    (garbage / "x.journal").write_bytes(os.urandom(4000))
    for arguments in (
        ("report", "garbage"),
        ("status", "garbage"),
        ("attach", "garbage", "--once"),
    ):
        done = distwatch(*arguments, root=root)
        assert (done.returncode, done.stdout) == (6, ""), arguments
        assert "no readable record" in done.stderr
    assert "no readable record" in call("ps", "-o", "json", root=root).stdout


def test_replay_says_so_before_it_takes_the_screen(root: Path) -> None:
    garbage = root / "garbage"
    garbage.mkdir(parents=True)
    (garbage / "x.journal").write_bytes(os.urandom(4000))
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "distwatch", "replay", "garbage", "--dir", str(root)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 6
    assert b"no readable record" in done.stderr


def test_a_demo_without_torch_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "torch" else find(name, *more),
    )
    done = call("demo", "--no-tui", root=root)
    assert done.exit_code == 1
    assert isinstance(done.exception, DistwatchError)
    assert done.exception.exit_code == 1
    assert "Install torch, numpy, transformers" in str(done.exception)
    assert not root.exists()


@pytest.fixture
def traversable() -> Iterator[Path]:
    """A folder that other users can reach, which those that pytest makes are not."""
    with tempfile.TemporaryDirectory(prefix="distwatch-test-", dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    "arguments", [("ps", "--dir", "{root}"), ("report", "{root}/hung"), ("run", "--dir", "{root}", "--", "true")]
)  # fmt: skip
def test_what_may_not_be_read_does_not_pass_for_nothing(
    traversable: Path, arguments: tuple[str, ...]
) -> None:
    root = traversable / "runs"
    (root / "hung").mkdir(parents=True, mode=0o700)
    # Of the root itself for two of them, of the run folder in it for the report.
    root.chmod(0o755 if arguments[0] == "report" else 0o700)
    # Everything is imported as root: that user may not be able to read this Python.
    code = (
        "import os, sys, distwatch.observer.targets.remote_runs, distwatch.report.markdown\n"
        "import distwatch.cli.ps, distwatch.cli.report, distwatch.cli.run, distwatch.observer.cluster.shells\n"
        "from distwatch.cli.__main__ import main\n"
        "os.setuid(65534); main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(argument.format(root=root) for argument in arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 4, done.stderr
    assert "cannot be" in done.stderr
    assert "Traceback" not in done.stderr
