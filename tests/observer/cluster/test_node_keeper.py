"""A node's keeper links what is its own, again after every failure, and leaves the rest alone."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.observer.cluster.node_keeper import DirectorySilent, NodeKeeper
from distwatch.observer.cluster.root_registry import Card, read_cards
from distwatch.observer.cluster.roots import Roots
from distwatch.observer.cluster.run_generations import SILENT_FOR_S
from distwatch.observer.link.root_address import (
    TOKEN_FILE,
    LinkMisconfigured,
    RootAddress,
    make_token,
)
from distwatch.runfolder import RunFolder, generations, next_generation
from tests.observer.cluster.root_looks import root_of
from tests.observer.rank_process import RankProcess
from tests.support.leftovers import wait_gone

HERE = RootAddress("127.0.0.1", 0)


class OneRoot:
    """A directory whose answers the test chooses; `Roots` behind it is the real one."""

    cluster = "c"

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self.asked: list[dict[str, int]] = []
        self.silent = False

    def roots_of(self, runs: dict[str, int]) -> tuple[dict[str, Card], dict[str, str]]:
        self.asked.append(dict(runs))
        if self.silent:
            raise DirectorySilent("the run actor does not answer")
        for name, began_ns in runs.items():
            root_of(self.roots, name, began_ns)
        return self.roots.cards, {}


def test_a_keeper_links_repairs_and_survives_silence(
    folder: RunFolder,
    start_rank: Callable[..., RankProcess],
    observers: Callable[[RunFolder], int],
) -> None:
    root = os.path.dirname(folder.path)
    start_rank()
    directory = OneRoot(Roots(root, HERE, "c"))
    root_of(directory.roots, "r")
    first = observers(folder)
    keeper = NodeKeeper(root, directory, lambda one: one.run_id == "r")
    keeper.keep()
    assert keeper.told["r"].startswith("root 127.0.0.1:")
    place = keeper.told["r"]
    assert set(read_cards(root)) == {"r"}

    directory.silent = True
    keeper.keep()
    assert keeper.told["r"] == place  # its link goes on
    directory.silent = False

    os.kill(first, signal.SIGKILL)
    assert wait_gone(first, 30)
    root_of(directory.roots, "r")
    assert observers(folder) != first
    keeper.keep()
    assert keeper.told["r"] == place  # where the leaves look for it


def test_a_keeper_leaves_the_runs_of_others_alone(
    folder: RunFolder,
    start_rank: Callable[..., RankProcess],
    observers: Callable[[RunFolder], int],
) -> None:
    root = os.path.dirname(folder.path)
    start_rank()
    directory = OneRoot(Roots(root, HERE, "c"))
    root_of(directory.roots, "r")
    observers(folder)
    keeper = NodeKeeper(root, directory, lambda _: False)
    keeper.keep()
    assert directory.asked == [{}]
    assert keeper.told == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_gets_no_order(
    folder: RunFolder, tmp_path: Path, start_rank: Callable[..., RankProcess]
) -> None:
    """Whoever may write to the root may put a folder there, with an observer of his own in it."""
    root = os.path.dirname(folder.path)
    start_rank()
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    directory = OneRoot(Roots(str(tmp_path / "else"), HERE, "c"))
    keeper = NodeKeeper(root, directory, lambda _: True)
    os.chown(folder.path, 65534, 65534)
    try:
        keeper.keep()
        assert directory.asked == [{}]
    finally:
        os.chown(folder.path, os.getuid(), os.getgid())
        os.close(lock)


def test_who_comes_after_knows_the_places_of_who_was_before(
    folder: RunFolder,
    start_rank: Callable[..., RankProcess],
    observers: Callable[[RunFolder], int],
) -> None:
    root = os.path.dirname(folder.path)
    start_rank()
    before = root_of(Roots(root, HERE, "c"), "r")
    os.kill(pid := observers(folder), signal.SIGKILL)
    assert wait_gone(pid, 30)
    assert root_of(Roots(root, HERE, "c"), "r").place == before.place
    observers(folder)


def test_another_launch_of_a_name_gets_a_folder_of_its_own(
    folder: RunFolder, observers: Callable[[RunFolder], int]
) -> None:
    root = os.path.dirname(folder.path)
    Path(folder.journal("far-1")).write_bytes(b"")
    written_s = time.time() - SILENT_FOR_S - 60
    os.utime(folder.journal("far-1"), (written_s, written_s))
    roots = Roots(root, HERE, "c")
    root_of(roots, "r", time.time_ns())
    found = generations(root, "r")
    assert [one.run_id for one in found] == ["r", "r~2"]
    observers(found[1])
    assert next_generation(root, "r").run_id == "r~3"


def test_a_token_is_made_once_and_stays_private(tmp_path: Path) -> None:
    first = make_token(str(tmp_path))
    assert make_token(str(tmp_path)) == first
    assert os.listdir(tmp_path) == [TOKEN_FILE]
    assert os.stat(tmp_path / TOKEN_FILE).st_mode & 0o777 == 0o600
    (tmp_path / TOKEN_FILE).chmod(0o644)
    with pytest.raises(LinkMisconfigured, match="others may read"):
        make_token(str(tmp_path))
