"""The real command line: what it prints where, and the contract's exit codes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch import __version__
from tests.cli.runs import call, distwatch, save
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.support.terminals import in_terminal, interrupt


@pytest.mark.parametrize("output", ["md", "json", "html"])
def test_report_on_a_hang_ends_with_3(hung: Path, output: str) -> None:
    done = distwatch("report", "hung", "-o", output, root=hung)
    assert done.returncode == 3, done.stderr
    assert "never entered" in done.stdout
    assert done.stderr == ""
    if output == "json":
        assert json.loads(done.stdout)["schema"] == "distwatch.report/1"


def test_report_on_a_healthy_run_ends_with_0(healthy: Path) -> None:
    done = distwatch("report", "healthy", root=healthy)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ended: 2/2 ranks have ended; nothing wrong found" in done.stdout


@pytest.mark.parametrize("waited", [7.0, 30.0])
def test_every_command_says_the_same_verdict(root: Path, waited: float) -> None:
    save(hung_job(waited=waited), root, "one")
    (listed,) = json.loads(call("ps", "-o", "json", root=root).stdout)["runs"]
    verdict = listed["verdict"]
    assert verdict["word"] == ("hang" if waited > 10 else "suspected")
    for command in ("status", "report"):
        told = json.loads(call(command, "one", "-o", "json", root=root).stdout)
        assert told["verdict"] == verdict
    sentence = f"{verdict['summary']}{' (' + verdict['note'] + ')' if verdict['note'] else ''}"
    assert f"{verdict['word']}: {sentence}" in call("status", root=root).stdout
    assert sentence in call("report", "one", "-o", "html", root=root).stdout
    shown = " ".join(call("attach", "one", "--once", root=root).stdout.split())
    assert f"{verdict['word'].upper()} {sentence}" in shown


def test_status_says_which_run_it_is_and_that_it_has_ended(healthy: Path) -> None:
    shown = call("status", root=healthy).stdout.splitlines()
    assert shown[1].startswith("healthy · torchrun · world size 2 · node1 · ended ")
    assert shown[1].endswith(" ago")


def test_report_with_unobserved_ranks_and_no_finding_ends_with_6(root: Path) -> None:
    job = RecordedJob(4)
    job.initialize(0, 1)
    save(job, root, "partial")
    done = distwatch("report", "partial", root=root)
    assert done.returncode == 6
    assert "no process seen" in done.stdout


@pytest.mark.parametrize("command", ["report", "export", "status"])
def test_without_a_name_the_newest_run_is_meant(hung: Path, command: str) -> None:
    named = distwatch(command, "hung", root=hung)
    assert named.returncode == 3
    assert distwatch(command, root=hung).stdout == named.stdout


@pytest.mark.parametrize("command", "attach status stacks dump serve report replay export".split())
def test_help_shows_the_name_as_optional_and_where_the_runs_are(root: Path, command: str) -> None:
    said = distwatch(command, "--help", root=root).stdout
    assert "[OPTIONS] [" in said.splitlines()[0]
    flat = said.replace("\n", "").replace(" ", "")
    assert f"/tmp/distwatch-UID;now{root}" in flat


def test_report_to_a_file_is_private_and_whole(hung: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    done = distwatch("report", "hung", "-o", "html", "--output", str(target), root=hung)
    assert (done.returncode, done.stdout) == (3, "")
    assert target.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_report_by_folder_and_incident_path(hung: Path) -> None:
    assert distwatch("report", str(hung / "hung"), root=Path("/nonexistent")).returncode == 3


def test_a_corrupted_journal_loses_only_what_was_hit(hung: Path) -> None:
    victim = next((hung / "hung").glob("node1-1003*.journal"))
    content = bytearray(victim.read_bytes())
    content[-20:] = b"\xff" * 20
    victim.write_bytes(content)
    (hung / "hung" / "garbage.journal").write_bytes(os.urandom(5000))
    done = distwatch("report", "hung", root=hung)
    assert done.returncode == 3
    assert "rank 2 never entered" in done.stdout.replace("\\", "")
    assert "damaged" in done.stdout.partition("What is not known")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("report", "nothing"), 5, "there is no run 'nothing'"),
        (("report", "999999999"), 5, "there is no process 999999999"),
        (("status",), 5, "no run is recorded"),
        (("stacks", "999999999"), 5, "there is no process"),
        (("attach", "999999999", "--once"), 5, "there is no process"),
        (("attach", "999999999"), 5, "there is no process 999999999"),
        (("attach", str(os.getpid())), 2, "no terminal"),
        (("replay", "nothing"), 5, "there is no run"),
        (("dump", "nothing"), 5, "there is no run"),
        (("run",), 2, "nothing to run"),
        (("run", "--", "no-such-program"), 2, "not a command on PATH"),
        (("clean", "--older-than", "soon"), 2, "is not an age"),
        (("atach", "1"), 2, "Did you mean 'attach'"),
        (("report", "hung", "-o", "pdf"), 2, "pdf"),
        (("demo", "nonsense"), 2, "nonsense"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(
    root: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = distwatch(*arguments, root=root)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_empty_folder_says_what_a_run_folder_has(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = distwatch("report", str(empty), root=root)
    assert done.returncode == 6
    assert "does not hold a run" in done.stderr


def test_an_output_that_is_a_folder_is_refused(hung: Path, tmp_path: Path) -> None:
    done = distwatch("report", "hung", "--output", str(tmp_path), root=hung)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_process_that_is_no_job(root: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        done = distwatch("attach", str(sleeper.pid), "--once", root=root)
        assert done.returncode == 5
        assert "neither Python nor part of a job" in done.stderr
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_someone_elses_process() -> None:
    theirs = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd="/")
    mine = Path(f"/tmp/distwatch-test-{os.getpid()}")
    mine.mkdir()
    os.chown(mine, 65534, 65534)
    # Everything is imported as root: that user may not be able to read this Python.
    code = (
        "import os, sys, distwatch.cli.attach, distwatch.observer.targets.embedded_run, distwatch.tui.once\n"
        "import distwatch.observer.targets.remote_runs\n"
        "from distwatch.cli.__main__ import main\n"
        f"os.setuid(65534); main(['attach', '{theirs.pid}', '--once'])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DISTWATCH_DIR": str(mine)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr
        assert str(theirs.pid) in done.stderr
    finally:
        theirs.kill()
        theirs.wait()
        shutil.rmtree(mine, ignore_errors=True)


def test_ps_and_status_in_every_format(hung: Path) -> None:
    table = distwatch("ps", root=hung)
    assert table.returncode == 0
    assert "hung" in table.stdout
    assert json.loads(distwatch("ps", "-o", "json", root=hung).stdout)["schema"] == "distwatch.ps/1"
    for line in distwatch("ps", "-o", "ndjson", root=hung).stdout.splitlines():
        assert json.loads(line)["run_id"] == "hung"
    assert distwatch("ps", "-o", "md", root=hung).stdout.startswith("| RUN |")
    status = distwatch("status", root=hung)
    assert status.returncode == 3
    assert "rank 2 never entered" in status.stdout
    document = json.loads(distwatch("status", "hung", "-o", "json", root=hung).stdout)
    assert document["schema"] == "distwatch.status/1"
    assert [r["global_rank"] for r in document["ranks"]] == [0, 1, 2, 3]


def test_stacks_of_an_ended_run_come_from_disk(hung: Path) -> None:
    done = distwatch("stacks", "hung", root=hung)
    assert "read_shard (/job/data.py:42)  [2]" in done.stdout
    assert "[0-1,3]" in done.stdout


def test_stacks_of_a_foreign_python_process(root: Path) -> None:
    code = "import sys\ndef waits_here():\n    print(flush=True); sys.stdin.read()\nwaits_here()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        done = distwatch("stacks", str(child.pid), root=root)
        assert done.returncode == 0, done.stderr
        assert "waits_here" in done.stdout
    finally:
        child.kill()
        child.communicate()


def test_attach_once_prints_one_screen_without_escapes(hung: Path) -> None:
    done = distwatch("attach", "hung", "--once", root=hung)
    assert done.returncode == 3, done.stderr
    assert "never entered" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_one_that_nobody_reads(hung: Path, closed: str) -> None:
    for arguments, code in (("status hung", 3), ("attach hung", 2), ("check -", 2)):
        command = f'exec "$0" -m distwatch {arguments} {closed}'
        environ = {**os.environ, "DISTWATCH_DIR": str(hung)}
        done = subprocess.run(["sh", "-c", command, sys.executable], env=environ, timeout=60)
        assert done.returncode == code, arguments


def test_help_is_quick_to_load() -> None:
    heavy = "textual psutil jinja2 msgspec rich asyncio torch".split()
    code = (
        "import sys; from distwatch.cli.__main__ import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Exit codes" in done.stdout


def test_version() -> None:
    assert distwatch("--version").stdout.startswith("distwatch, version ")


def test_ps_fits_the_terminal_and_names_the_script(hung: Path) -> None:
    command = [sys.executable, "-m", "distwatch", "ps", "--dir", str(hung)]
    code, said = in_terminal(command, columns=80)
    said_lines = said.decode().replace("\r", "").splitlines()
    # Below the table stand the jobs without distwatch of this machine, such as those of a test beside this one.
    lines = [line for line in said_lines if not line.startswith("distwatch: ")]
    assert code == 0
    assert all(len(line) <= 80 for line in lines), lines
    assert "train.py" in lines[2]
    assert "rank 2 never entered" in " ".join(line.strip() for line in lines[3:])


def test_ps_keeps_old_runs_for_all(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    for number in range(22):
        save(job, root, f"run{number}")
    done = call("ps", root=root)
    assert done.stdout.count("\n") == 21
    assert "2 older runs: `distwatch ps --all`" in done.stderr
    assert call("ps", "--all", root=root).stdout.count("\n") == 23


def test_status_watch_shows_it_until_ctrl_c(hung: Path) -> None:
    command = [sys.executable, "-m", "distwatch", "status", "--watch", "--dir", str(hung)]
    code, said = in_terminal(command, until=b"WHERE", then=interrupt)
    assert code == 130
    assert b"never entered" in said


def test_ctrl_c_while_it_is_being_loaded_is_no_traceback() -> None:
    program = """
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from distwatch.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [("-V",), ("--version",), ("version",)])
def test_the_version(arguments: tuple[str, ...]) -> None:
    done = distwatch(*arguments)
    assert (done.returncode, done.stdout) == (0, f"distwatch, version {__version__}\n")


def test_completion_is_clicks() -> None:
    done = distwatch(_DISTWATCH_COMPLETE="zsh_source")
    assert done.returncode == 0, done.stderr
    assert "#compdef distwatch" in done.stdout
