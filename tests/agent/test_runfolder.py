"""Where a run's files are, and whose."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch import runfolder
from distwatch.agent.entry import enter_run, role_of
from distwatch.runfolder import (
    FolderDenied,
    RunFolder,
    is_alive,
    is_child_of_rank,
    join,
    start_ticks,
    write_start,
)
from tests.support.attacker import TRAPS, needs_root, theirs

RANK0 = {"RANK": "0", "WORLD_SIZE": "2"}
RANK1 = {"RANK": "1", "WORLD_SIZE": "2"}


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def leave_start(folder: RunFolder, pid: int, ticks: int, **variables: str) -> None:
    lines = [f"pid={pid}", f"ticks={ticks}", "ppid=1", "host=h", "role=rank"]
    lines += [f"{name}={value}" for name, value in variables.items()]
    Path(folder.path, f"h-{pid}.start").write_text("\n".join(lines) + "\n")


def test_run_folders_are_private_and_a_given_root_stays_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    folder = join(str(root), "job", RANK0)
    assert mode_of(folder.path) == 0o700
    assert mode_of(root) == 0o755


def test_a_root_where_others_can_replace_things_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    for mode in (0o777, 0o1777, 0o770):
        root.chmod(mode)
        with pytest.raises(FolderDenied, match=r"others may write to .* set DISTWATCH_DIR"):
            join(str(root), "job", RANK0)
    assert list(root.iterdir()) == []


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_is_opened_in_a_root_that_another_user_made_first(
    trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He lays a folder of the run's name there, and in it a record that cannot be read to its end."""
    root = tmp_path / "root"
    (root / "job").mkdir(parents=True)
    TRAPS[trap](root / "job" / "h-1.start")
    for path in (root, root / "job", root / "job" / "h-1.start"):
        theirs(path)
    opened: list[str] = []
    monkeypatch.setattr(runfolder, "read_ours", lambda path, most: opened.append(path))
    monkeypatch.setattr(os, "listdir", lambda path: opened.append(path))
    environ = {"DISTWATCH_DIR": str(root), "DISTWATCH_RUN_ID": "job", **RANK0}
    for variables in (environ, {"DISTWATCH_DIR": str(root)}):
        with pytest.raises(FolderDenied, match="belongs to uid 65534; set DISTWATCH_DIR"):
            enter_run(variables)
    assert opened == []


@needs_root
def test_a_root_that_is_another_users_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    link = tmp_path / "root"
    link.symlink_to(tmp_path / "mine")
    assert mode_of(join(str(link), "job", RANK0).path) == 0o700, "a link of our own leads somewhere"
    theirs(link)
    with pytest.raises(FolderDenied, match="belongs to uid 65534"):
        join(str(link), "job", RANK0)


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_a_record_that_is_none_is_passed_over(trap: str, tmp_path: Path) -> None:
    folder = join(str(tmp_path / "root"), "job", RANK0)
    TRAPS[trap](Path(folder.path, "h-1.start"))
    (start,) = folder.starts()
    assert start == ({} if trap != "file" else start)
    assert not is_child_of_rank(folder)
    assert join(str(tmp_path / "root"), "job", RANK1).path.startswith(folder.path)


@pytest.mark.parametrize("pid", ["x", "-1", "9" * 40, "²"])
def test_a_record_with_a_number_that_is_none_is_no_record(pid: str, tmp_path: Path) -> None:
    folder = join(str(tmp_path / "root"), "job", RANK0)
    Path(folder.path, "h-1.start").write_text(f"pid={pid}\nticks=1\nppid=1\nrole=rank\nhost=h\n")
    assert folder.starts() == [{}]
    assert join(str(tmp_path / "root"), "job", RANK0).path == folder.path


@needs_root
def test_a_rank_in_such_a_root_runs_on_and_says_one_line(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "job").mkdir(parents=True)
    os.mkfifo(root / "job" / "h-1.start")
    for path in (root, root / "job", root / "job" / "h-1.start"):
        theirs(path)
    environ = {**os.environ, **RANK0, "DISTWATCH_DIR": str(root), "DISTWATCH_RUN_ID": "job"}
    done = subprocess.run(
        [sys.executable, "-c", "import distwatch.auto; print('ran')"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "ran\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("distwatch: off in process")
    assert "belongs to uid 65534; set DISTWATCH_DIR" in line


def test_a_link_in_place_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "job").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderDenied):
        RunFolder(str(tmp_path / "job")).create()


@pytest.mark.parametrize("name", ["../../etc", ".hidden", "a/b", "", "x\ny"])
def test_a_run_name_stays_inside_the_root(tmp_path: Path, name: str) -> None:
    folder = join(str(tmp_path), name, RANK0)
    assert os.path.dirname(folder.path) == str(tmp_path)
    assert not folder.run_id.startswith(".")


def test_the_ranks_of_a_launch_meet_in_one_folder(tmp_path: Path) -> None:
    first = join(str(tmp_path), "none", RANK0)
    leave_start(first, os.getppid(), start_ticks(os.getppid()), **RANK0)
    assert join(str(tmp_path), "none", RANK1).path == first.path


def test_a_name_that_comes_again_is_another_run(tmp_path: Path) -> None:
    first = join(str(tmp_path), "none", RANK0)
    leave_start(first, 4194304, 1, **RANK0)
    second = join(str(tmp_path), "none", RANK0)
    assert second.run_id == "none~2"
    # Its other rank finds nobody in its place there, and joins.
    leave_start(second, os.getppid(), start_ticks(os.getppid()), **RANK0)
    assert join(str(tmp_path), "none", RANK1).run_id == "none~2"


def test_a_rank_that_died_early_does_not_split_its_run(tmp_path: Path) -> None:
    first = join(str(tmp_path), "none", RANK0)
    leave_start(first, 4194304, 1, **RANK0)
    assert join(str(tmp_path), "none", RANK1).path == first.path


def test_an_elastic_restart_stays_in_its_run(tmp_path: Path) -> None:
    first = join(str(tmp_path), "job", RANK0)
    leave_start(first, 4194304, 1, **RANK0, TORCHELASTIC_RESTART_COUNT="0")
    again = {**RANK0, "TORCHELASTIC_RESTART_COUNT": "1"}
    assert join(str(tmp_path), "job", again).path == first.path


def test_a_start_record_tells_who_began(tmp_path: Path) -> None:
    folder = join(str(tmp_path), "job", RANK0)
    write_start(folder, "rank", {**RANK0, "HF_TOKEN": "hf_secret"})
    (start,) = folder.starts()
    assert (start["pid"], start["RANK"], start["role"]) == (str(os.getpid()), "0", "rank")
    assert "HF_TOKEN" not in start
    assert is_alive(int(start["pid"]), int(start["ticks"]))
    assert not is_alive(int(start["pid"]), int(start["ticks"]) + 1)


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["python", "train.py"], "rank"),
        (["python", "/venv/bin/torchrun", "train.py"], "launcher"),
        (["python", "-m", "torch.distributed.run", "train.py"], "launcher"),
        (["python", "-um", "torch.distributed.run", "train.py"], "launcher"),
        (["python", "/venv/bin/distwatch", "status"], "launcher"),
        (["python", "-m", "distwatch", "status"], "launcher"),
        (["python", "-c", "import torch"], "rank"),
    ],
)
def test_launchers_are_no_ranks_whatever_their_environment_says(argv: list[str], role: str) -> None:
    assert role_of(argv, RANK0) == role
    assert role_of(argv, {}) == ("launcher" if role == "launcher" else "other")
