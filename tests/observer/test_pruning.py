"""Which ended runs go: the old ones, and the oldest of too many. Never one that is open."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from distwatch.observer.journals.pruning import JOINED_WITHIN_S, prune
from distwatch.observer.lock import free_lock, take_lock
from distwatch.runfolder import RunFolder, filesystem_of, make_private, write_start
from distwatch.settings import Keep
from distwatch.state.frames import FileHeader, encode_header

DAY_S = 86400.0
MIB = 1 << 20
FOREVER = float("inf")


HEADER = FileHeader(
    stream="h-1.5", host="h", pid=1, start_ticks=5, boot_id="b", wall_offset_ns=0, salt=1
)


def run(root: Path, name: str, age_s: float, size: int = 1000) -> RunFolder:
    folder = RunFolder(str(root / name))
    make_private(folder.path)
    Path(folder.journal("h-1")).write_bytes(encode_header(HEADER).ljust(size, b"\0"))
    set_age(folder, age_s)
    return folder


def add_incident(folder: RunFolder, age_s: float) -> None:
    place = Path(folder.incidents, "1")
    place.mkdir(parents=True)
    report = place / "report.json"
    report.write_text("{}")
    then = time.time() - age_s
    for path in (report, place, Path(folder.incidents)):
        os.utime(path, (then, then))


def set_age(folder: RunFolder, age_s: float) -> None:
    then = time.time() - age_s
    for path in Path(folder.path).iterdir():
        os.utime(path, (then, then))


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_old_runs_go_and_young_ones_stay(tmp_path: Path) -> None:
    old = run(tmp_path, "old", 15 * DAY_S)
    run(tmp_path, "young", 13 * DAY_S)
    assert prune(str(tmp_path), Keep(14 * DAY_S, None)) == [old.path]
    assert left(tmp_path) == {"young"}


def test_the_oldest_go_until_all_take_no_more_than_they_may(tmp_path: Path) -> None:
    for number in range(5):
        run(tmp_path, f"r{number}", (5 - number) * DAY_S, MIB)
    prune(str(tmp_path), Keep(FOREVER, 3 * MIB))
    assert left(tmp_path) == {"r2", "r3", "r4"}


def test_a_run_that_has_just_ended_is_not_too_much(tmp_path: Path) -> None:
    run(tmp_path, "just-ended", JOINED_WITHIN_S / 2, 2 * MIB)
    assert prune(str(tmp_path), Keep(FOREVER, MIB)) == []
    assert left(tmp_path) == {"just-ended"}


@pytest.mark.parametrize("keep", [Keep(14 * DAY_S, 10), Keep(FOREVER, 10)], ids=["both", "size"])
def test_a_run_with_a_young_incident_stays(tmp_path: Path, keep: Keep) -> None:
    add_incident(run(tmp_path, "hung-lately", 20 * DAY_S), 13 * DAY_S)
    add_incident(run(tmp_path, "hung-long-ago", 20 * DAY_S), 19 * DAY_S)
    prune(str(tmp_path), keep)
    assert left(tmp_path) == {"hung-lately"}


def test_a_run_that_is_open_stays(tmp_path: Path) -> None:
    living = run(tmp_path, "living", 0)
    write_start(living, "rank", {})
    observed = run(tmp_path, "observed", 0)
    lock = take_lock(observed)
    assert lock is not None
    for folder in (living, observed):
        set_age(folder, 30 * DAY_S)
    keep = Keep(DAY_S, 1)
    assert prune(str(tmp_path), keep) == []
    free_lock(lock)
    set_age(observed, 30 * DAY_S)
    assert prune(str(tmp_path), keep) == [observed.path]
    assert left(tmp_path) == {"living"}


def test_what_distwatch_did_not_make_stays(tmp_path: Path) -> None:
    shared = run(tmp_path, "shared", 30 * DAY_S)
    os.chmod(shared.path, 0o755)
    (tmp_path / "link").symlink_to(shared.path)
    (tmp_path / "notes").mkdir(mode=0o700)
    somebodys = run(tmp_path, "somebodys", 0)
    Path(somebodys.journal("h-1")).write_text("dear diary")
    set_age(somebodys, 30 * DAY_S)
    prune(str(tmp_path), Keep(DAY_S, 1))
    assert left(tmp_path) == {"shared", "link", "notes", "somebodys"}


def test_a_root_in_memory_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(f"/dev/shm/distwatch-test-prune-{os.getpid()}")
    if filesystem_of("/dev/shm") != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    whole = os.statvfs("/dev/shm")
    monkeypatch.setattr(
        "distwatch.observer.journals.pruning.TMPFS_SHARE",
        whole.f_blocks * whole.f_frsize // (3 * MIB),
    )
    try:
        for number in range(5):
            run(root, f"r{number}", (5 - number) * DAY_S, MIB)
        prune(str(root), Keep(FOREVER, 1 << 40))
        assert left(root) == {"r2", "r3", "r4"}
    finally:
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()
