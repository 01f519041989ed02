"""Who asks for roots is answered with what is known; a run is over when it says so, or is silent."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.observer.cluster import roots as roots_module
from distwatch.observer.cluster.root_registry import KEPT_NS
from distwatch.observer.cluster.roots import Roots
from distwatch.observer.cluster.run_generations import SILENT_FOR_S, folder_of_launch, is_over
from distwatch.observer.link.root_address import RootAddress
from distwatch.runfolder import RunFolder, generations
from tests.observer.cluster.root_looks import looks, root_of
from tests.observer.rank_process import RankProcess
from tests.support.leftovers import wait_gone

HERE = RootAddress("127.0.0.1", 0)
HOUR_NS = 3600 * 10**9


def age(folder: RunFolder, by_s: float) -> None:
    """Makes all that was written there older."""
    for stem in folder.stems(".journal"):
        written_s = os.stat(folder.journal(stem)).st_mtime - by_s
        os.utime(folder.journal(stem), (written_s, written_s))


def end(pid: int, how: signal.Signals) -> None:
    os.kill(pid, how)
    assert wait_gone(pid, 30)


def test_one_root_that_is_stopped_holds_up_no_other(
    folder: RunFolder,
    start_rank: Callable[..., RankProcess],
    observers: Callable[[RunFolder], int],
) -> None:
    root = os.path.dirname(folder.path)
    start_rank()
    roots = Roots(root, HERE, "c")
    card = root_of(roots, "r")
    os.kill(pid := observers(folder), signal.SIGSTOP)
    try:
        while not looks():  # they begin at most once a second
            assert roots.roots_of({"r": 0})[0] == {"r": card}
        asked = [roots.roots_of({"r": 0}) for _ in range(20)]
        assert asked == [({"r": card}, {})] * 20
        assert len(looks()) == 1
        cards, problems = roots.roots_of({"r": 0, "s": 0})
        assert set(cards) == {"r", "s"}
        assert not problems
    finally:
        os.kill(pid, signal.SIGCONT)
    (other,) = generations(root, "s")
    end(observers(other), signal.SIGTERM)
    shutil.rmtree(other.volatile, ignore_errors=True)
    for look in looks():
        look.join()


def test_a_name_that_leads_out_of_the_root_makes_no_folder(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    roots = Roots(str(root), HERE, "c")
    for name in ("../x", "/x", ".", "", "a/b", ".hidden", "r~2", "a\nb"):
        cards, problems = roots.roots_of({name: 0})
        assert not cards
        assert "not a valid run name" in problems[name]
    assert os.listdir(tmp_path) == ["runs"]
    assert os.listdir(root) == ["token"]


def test_what_has_failed_is_said_and_waited_for_no_more(folder: RunFolder) -> None:
    root = os.path.dirname(folder.path)
    roots = Roots(root, HERE, "c")
    Path(root, "x").write_text("no folder")
    for _ in range(2):
        cards, problems = roots.roots_of({"x": 0})
        assert not cards
        assert "could not create a root of x" in problems["x"]


def test_a_run_has_ended_when_its_root_said_so_and_not_when_it_was_killed(
    folder: RunFolder,
    observers: Callable[[RunFolder], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roots_module, "LOOK_EVERY_S", 0.0)
    root = os.path.dirname(folder.path)
    root_of(Roots(root, HERE, "c"), "r")
    end(observers(folder), signal.SIGKILL)
    assert not Roots(root, HERE, "c").cards["r"].ended

    asked = Roots(root, HERE, "c")
    root_of(asked, "r")
    end(observers(folder), signal.SIGTERM)
    assert not asked.cards["r"].ended  # a node still asks for it: another root comes
    assert Roots(root, HERE, "c").cards["r"].ended
    age(folder, KEPT_NS / 1e9)
    assert Roots(root, HERE, "c").cards == {}


def test_a_run_whose_root_was_killed_is_over_after_long_silence(
    folder: RunFolder, observers: Callable[[RunFolder], int]
) -> None:
    root_of(Roots(os.path.dirname(folder.path), HERE, "c"), "r")
    assert not is_over(folder)
    end(observers(folder), signal.SIGKILL)
    assert not is_over(folder)
    age(folder, SILENT_FOR_S)
    assert is_over(folder)


def test_a_launch_has_the_folder_that_was_written_since_it_began(folder: RunFolder) -> None:
    root = os.path.dirname(folder.path)
    journal = Path(folder.journal("far-1"))
    journal.write_bytes(b"")
    # A node that asks after another, while the root is being started again.
    assert folder_of_launch(root, "r", time.time_ns() + 10**9).run_id == "r"
    age(folder, 3600)
    # Ranks of this node ended before anybody was linked.
    written_ns = journal.stat().st_mtime_ns
    assert folder_of_launch(root, "r", written_ns - 1).run_id == "r"
    later = folder_of_launch(root, "r", written_ns + 1)
    assert later.run_id == "r~2"
    assert folder_of_launch(root, "r", written_ns + 1).run_id == "r~2"
    assert [one.run_id for one in generations(root, "r")] == ["r", "r~2"]
    os.rmdir(later.volatile)


def test_the_clock_of_who_asks_need_not_be_ours(
    folder: RunFolder, observers: Callable[[RunFolder], int]
) -> None:
    root = os.path.dirname(folder.path)
    Path(folder.journal("far-1")).write_bytes(b"")
    age(folder, 3600)
    began_ns = time.time_ns() - HOUR_NS // 2  # half an hour after that, by our clock
    roots = Roots(root, HERE, "c")
    cards, _ = roots.roots_of({"r": began_ns - 2 * HOUR_NS}, ahead_ns=2 * HOUR_NS)
    assert set(cards) == {"r"}
    assert [one.run_id for one in generations(root, "r")] == ["r", "r~2"]
    observers(generations(root, "r")[1])
