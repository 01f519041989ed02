"""`distwatch env`: of this shell and of other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.runs import distwatch
from tests.support.ranks import free_port

SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
         "SLURM_STEP_NODELIST": "localhost", "SLURM_NNODES": "1"}  # fmt: skip


@pytest.fixture
def rank(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a rank's environment, and a secret in it."""
    environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
               "DISTWATCH_DIR": str(root), "DISTWATCH_RUN_ID": "mine", "DISTWATCH": "0",
               "HF_TOKEN": "hf_0123456789abcdefghij", "NCCL_DEBUG": "token=sk-0123456789abcdefghij"}  # fmt: skip
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_shell_without_a_launcher_is_sound(root: Path) -> None:
    done = distwatch("env", root=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a single process without peers" in done.stdout
    assert "DISTWATCH_DIR " in done.stdout
    assert done.stdout.endswith("sound\n")


def test_the_shells_own_switch_is_told_and_not_the_commands(root: Path) -> None:
    done = distwatch("env", "-o", "json", root=root, DISTWATCH="1")
    settings = {one["name"]: one for one in json.loads(done.stdout)["settings"]}
    assert settings["DISTWATCH"] == {"name": "DISTWATCH", "value": "1", "source": "environment"}
    assert settings["DISTWATCH_ON_HANG"]["source"] == "default"


def test_what_slurm_tells_completes_the_shell(root: Path) -> None:
    done = distwatch("env", "-o", "sh", root=root, **SLURM)
    assert (done.returncode, done.stderr) == (0, "")
    shown = 'eval "$(cat)"; echo $RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT'
    shell = subprocess.run(
        ["sh", "-c", shown], input=done.stdout, capture_output=True, text=True, check=True, env={}
    )
    assert shell.stdout == "1 2 1 localhost 20007\n"


def test_a_value_cannot_run_in_the_shell(root: Path, tmp_path: Path) -> None:
    evil = {**SLURM, "SLURM_STEP_NODELIST": f"x';touch<{tmp_path}/evil;'"}
    done = distwatch("env", "-o", "sh", root=root, **evil)
    subprocess.run(
        ["sh", "-c", 'eval "$(cat)"'], input=done.stdout, text=True, check=True, cwd=tmp_path
    )
    assert list(tmp_path.iterdir()) == []
    assert "MASTER_ADDR=" in done.stdout


def test_what_follows_from_nothing_is_said_on_stderr(root: Path) -> None:
    done = distwatch("env", "-o", "sh", root=root, RANK="0")
    assert done.returncode == 3
    assert done.stdout == "export LOCAL_RANK=0\n"
    assert "WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set and cannot be inferred" in done.stderr


def test_another_process_without_its_secrets(rank: subprocess.Popen[bytes], root: Path) -> None:
    done = distwatch("env", str(rank.pid), root=root)
    assert done.returncode == 0, done.stderr
    assert "rank 1 of 2, connects to the store at 127.0.0.1:" in done.stdout
    assert "mine (DISTWATCH_RUN_ID)" in done.stdout
    assert f"{root}/mine (not created yet)" in done.stdout
    assert "0123456789abcdefghij" not in done.stdout + done.stderr
    document = json.loads(distwatch("env", str(rank.pid), "-o", "json", root=root).stdout)
    assert document["schema"] == "distwatch.env/1"
    assert (document["pid"], document["global_rank"], document["run_id"]) == (rank.pid, 1, "mine")
    assert "0123456789abcdefghij" not in json.dumps(document)


def test_settings_that_were_ignored_are_said(root: Path) -> None:
    done = distwatch("env", root=root, DISTWATCH_DEADLINES="init=soon")
    assert "'init=soon' is not kind=seconds" in done.stderr
    assert "init=120" in done.stdout


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [("999999999", 5, "there is no process 999999999"), ("me", 2, "me"), ("0", 2, "0")],
)
def test_bad_input_is_answered_with_a_sentence(
    root: Path, argument: str, code: int, words: str
) -> None:
    done = distwatch("env", argument, root=root)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_environment_of_somebody_else(rank: subprocess.Popen[bytes], root: Path) -> None:
    # Everything is imported as root: that user may not be able to read this Python.
    code = (
        "import os, distwatch.cli.env\nfrom distwatch.cli.__main__ import main\n"
        f"os.setuid(65534); main(['env', '{rank.pid}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4, done.stderr
    assert f"process {rank.pid} cannot be read" in done.stderr
