"""No file that somebody else has made blocks us, or passes for ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.foreign_files import (
    FileRefused,
    open_ours,
    read_named,
    read_ours,
    read_private,
    write_whole,
)
from tests.probes.others import as_nobody
from tests.support.attacker import TRAPS, needs_root, theirs


@pytest.mark.parametrize("trap", ["fifo", "link", "folder"])
def test_only_a_regular_file_is_read(trap: str, tmp_path: Path) -> None:
    TRAPS[trap](tmp_path / "x")
    with pytest.raises(OSError, match=r"not a regular file|folder|symbolic|directory"):
        read_ours(str(tmp_path / "x"), 100)


@pytest.mark.parametrize("trap", ["fifo", "link", "folder"])
def test_only_a_regular_file_is_written(trap: str, tmp_path: Path) -> None:
    TRAPS[trap](tmp_path / "x")
    with pytest.raises(
        OSError, match=r"not a regular file|folder|symbolic|directory|No such device"
    ):
        open_ours(str(tmp_path / "x"), os.O_RDWR | os.O_CREAT)


@needs_root
def test_a_device_without_an_end_is_refused(tmp_path: Path) -> None:
    TRAPS["device"](tmp_path / "x")
    for read in (read_ours, read_named):
        with pytest.raises(FileRefused, match="not a regular file"):
            read(str(tmp_path / "x"), 100)


@needs_root
def test_a_file_of_another_user_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    path = tmp_path / "x"
    path.write_text("theirs")
    path.chmod(0o644)
    os.chown(path, 1, 1)

    def look() -> str:
        assert read_named(str(path), 100) == b"theirs"
        try:
            return read_ours(str(path), 100).decode()
        except FileRefused as error:
            return str(error)

    assert as_nobody(look) == f"{path} is a file of uid 1, not of uid 65534"
    assert read_ours(str(path), 100) == b"theirs", "root may look at any user's"


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    assert read_ours(str(path), 10) == b"x" * 10
    assert read_named(str(path), 100) == b"x" * 100
    with pytest.raises(FileRefused, match="larger than"):
        read_named(str(path), 99)


def test_a_file_that_a_person_names_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("tensor: 2")
    (tmp_path / "link").symlink_to(tmp_path / "plan.yaml")
    assert read_named(str(tmp_path / "link"), 100) == b"tensor: 2"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_token_that_others_may_touch_is_no_token(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(mode)
    with pytest.raises(FileRefused, match=r"others may|of uid 65534"):
        read_private(str(path), 100)
    path.chmod(0o600)
    assert read_private(str(path), 100) == b"secret"


@needs_root
def test_a_token_of_another_user_is_no_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o600)
    with pytest.raises(FileRefused, match=r"others may|of uid 65534"):
        read_private(str(theirs(path)), 100)


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    (tmp_path / "elsewhere").write_text("kept")
    path.symlink_to(tmp_path / "elsewhere")
    write_whole(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(str(tmp_path / "folder"), b"new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["elsewhere", "folder", "report.md"]
