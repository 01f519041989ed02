"""`distwatch clean` takes the ended runs, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.cli.runs import distwatch


def test_clean_removes_ended_runs_and_keeps_the_living(hung: Path) -> None:
    dry = distwatch("clean", "--all", "--dry-run", root=hung)
    assert dry.stdout.strip() == str(hung / "hung")
    assert (hung / "hung").is_dir()
    alive = hung / "alive"
    alive.mkdir()
    me = os.getpid()
    ticks = Path(f"/proc/{me}/stat").read_text().rpartition(")")[2].split()[19]
    host = os.uname().nodename
    (alive / f"{host}-{me}.start").write_text(
        f"pid={me}\nticks={ticks}\nppid=1\nhost={host}\nrole=rank\nRANK=0\n"
    )
    assert distwatch("clean", root=hung).stdout == ""
    done = distwatch("clean", "--all", root=hung)
    assert done.returncode == 0
    assert not (hung / "hung").exists()
    assert alive.is_dir()


def test_a_folder_that_distwatch_did_not_make_stays(hung: Path) -> None:
    shared = hung / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "system.journal").write_bytes(b"somebody's log")
    (hung / "link").symlink_to(shared)
    done = distwatch("clean", "--all", root=hung)
    assert (done.returncode, done.stdout.strip()) == (0, str(hung / "hung"))
    assert (shared / "system.journal").exists()
    assert (hung / "link").is_symlink()
    assert done.stderr.count("kept: ") == 2


def test_a_run_that_another_host_may_still_run_stays_for_a_day(hung: Path) -> None:
    far = hung / "far"
    far.mkdir(mode=0o700)
    record = far / "node9-77.start"
    record.write_text("pid=77\nticks=5\nppid=1\nhost=node9\nrole=rank\nRANK=0\n")
    assert "node9 may still run it" in distwatch("clean", "--all", root=hung).stderr
    assert far.is_dir()
    two_days_ago = time.time() - 2 * 86400
    os.utime(record, (two_days_ago, two_days_ago))
    assert distwatch("clean", "--all", root=hung).stdout.strip() == str(far)
    assert not far.exists()
