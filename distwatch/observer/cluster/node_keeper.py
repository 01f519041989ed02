"""Keeps one node's observers linked to the roots of their runs, after any failure."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import Protocol

from distwatch.observer.cluster.root_registry import Card, write_cards
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.link.orders import Order, OrderFailed, give_order
from distwatch.observer.lock import lock_holder
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder, name_of

KEEP_EVERY_S = 1.0
REPAIRS = 5
"""How often in a row a run's observer is restarted before it is given up."""
REPAIR_AGAIN_S = 15.0
"""The pause between restarts: starting takes time, especially on a busy machine."""


class DirectorySilent(Exception):
    """The directory of roots does not answer; the text says why."""


class Directory(Protocol):
    """Knows the roots of the cluster's runs."""

    cluster: str

    def roots_of(self, runs: dict[str, int]) -> tuple[dict[str, Card], dict[str, str]]:
        """The cards of all runs, and why a requested run has none.

        Args:
            runs: the runs that live on this node, and when each began here (wall clock, ns).

        Raises:
            DirectorySilent: nobody answers.
        """
        ...


class NodeKeeper:
    """Checks the runs of this node, round by round. Blocks: run it in its own thread.

    Attributes:
        told: by run, what its observer is now, or why it is not linked.
        troubles: only the runs that are not linked, with the reasons.
    """

    def __init__(
        self, folders: str, directory: Directory, is_ours: Callable[[RunFolder], bool]
    ) -> None:
        self._folders = folders
        self._directory = directory
        self._is_ours = is_ours
        self._ours: dict[str, int] = {}
        self._others: dict[str, float] = {}
        self._repairs: dict[str, tuple[int, float]] = {}
        self.told: dict[str, str] = {}
        self.troubles: dict[str, str] = {}

    def keep(self) -> None:
        """One round. Failures are in `told`, and the next round tries again."""
        live = {name_of(folder.run_id): folder for folder in self._living()}
        began = {name: self._ours[folder.path] for name, folder in live.items()}
        try:
            cards, problems = self._directory.roots_of(began)
        except DirectorySilent as error:
            # The observers and their links continue.
            self.told = {name: self.told.get(name, str(error)) for name in live}
            return
        with contextlib.suppress(OSError):
            write_cards(self._folders, self._directory.cluster, cards)
        told: dict[str, str] = {}
        troubles: dict[str, str] = {}
        for name, folder in live.items():
            why = problems.get(name, "no root is known")
            if (card := cards.get(name)) is not None:
                told[name], why = _link(folder, card)
            if why:
                troubles[name] = told[name] = why
        self.told, self.troubles = told, troubles

    def _living(self) -> list[RunFolder]:
        """Our runs that have an observer, older launches of a name first."""
        found = []
        for name in _listdir(self._folders):
            folder = RunFolder(os.path.join(self._folders, name))
            if not _is_of_this_user(folder):
                continue
            if lock_holder(folder) is not None:
                if self._belongs(folder):
                    found.append(folder)
                    self._note_life(folder)
            elif folder.path in self._ours:
                self._repair(folder)
        return sorted(found, key=lambda folder: self._ours[folder.path])

    def _belongs(self, folder: RunFolder) -> bool:
        if folder.path in self._ours:
            return True
        # A folder that is not ours can only become ours when another process enters it.
        changed = _changed(folder.path)
        if self._others.get(folder.path) == changed:
            return False
        if self._is_ours(folder):
            self._ours[folder.path] = _began_ns(folder)
            return True
        self._others[folder.path] = changed
        return False

    def _repair(self, folder: RunFolder) -> None:
        if not any_alive(folder):
            del self._ours[folder.path]
            return
        now = time.monotonic()
        tries, last = self._repairs.get(folder.path, (0, -REPAIR_AGAIN_S))
        if tries < REPAIRS and now - last >= REPAIR_AGAIN_S:
            self._repairs[folder.path] = tries + 1, now
            with contextlib.suppress(OSError):
                start_observer(folder, os.environ)

    def _note_life(self, folder: RunFolder) -> None:
        """Forgets the repairs of an observer that has lived for a while: its next end is another problem."""
        _, last = self._repairs.get(folder.path, (0, 0.0))
        if last and time.monotonic() - last >= 2 * REPAIR_AGAIN_S:
            del self._repairs[folder.path]


def _link(folder: RunFolder, card: Card) -> tuple[str, str]:
    """Makes the run's observer a leaf; returns what it is then, and why it did not obey."""
    try:
        part = give_order(folder, Order(part="leaf", place=card.place, token=card.token))
    except OrderFailed as error:
        return "", str(error)
    return f"{part.part} {part.place}", part.why_not


def _is_of_this_user(folder: RunFolder) -> bool:
    """Whether the folder is this user's: others may be able to create folders in the root."""
    try:
        status = os.lstat(folder.path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _began_ns(folder: RunFolder) -> int:
    times = []
    for stem in folder.stems(".start"):
        with contextlib.suppress(OSError):
            times.append(os.stat(os.path.join(folder.path, f"{stem}.start")).st_mtime_ns)
    return min(times, default=0)


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
