"""The root observers of a cluster's runs, all on one node; made when somebody asks for them."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import msgspec

from distwatch.observer.cluster.cards import Card, read_cards, write_cards
from distwatch.observer.link.orders import Order, OrderFailed, Part, give_order
from distwatch.observer.link.place import Place, make_token
from distwatch.observer.lock import lock_holder
from distwatch.observer.reading import any_alive
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder, generations, host_name, next_generation

ANSWERS_WITHIN_S = 15.0
_ASK_AGAIN_S = 0.1


class RootFailed(Exception):
    """A run has no root; the text says why."""


class Roots:
    """Keeps one root a run. What is asked for again is looked at again, and mended."""

    def __init__(self, folders: str, place: Place, cluster: str) -> None:
        """
        Args:
            folders: the root of this node's run folders.
            place: this node's address, as the others reach it, and the port; 0 is any.
            cluster: the address that names the cluster.
        """
        self._folders = folders
        self._place = place
        self._cluster = cluster
        self._cards: dict[str, Card] = {}
        self._of: dict[str, RunFolder] = {}
        self._at_work: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        os.makedirs(folders, mode=0o700, exist_ok=True)
        self._token = make_token(folders)
        self._remember()

    def root_of(self, name: str, began_ns: int) -> Card:
        """The way to the root of a run, which runs then.

        Args:
            began_ns: wall-clock time at which this launch began on the node that asks.

        Raises:
            RootFailed: it cannot be made.
        """
        with self._lock:
            at_work = self._at_work.setdefault(name, threading.Lock())
        with at_work:
            try:
                folder = self._folder_of(name, began_ns)
                part = self._ordered(folder, name)
            except OSError as error:
                raise RootFailed(f"no root of {name} can be made: {error}") from error
        if part.why_not or part.part != "root":
            raise RootFailed(f"the observer of {name} on {host_name()} is no root: {part.why_not}")
        before = self._cards.get(name)
        card = Card(
            cluster=self._cluster,
            place=part.place,
            token=self._token,
            host=host_name(),
            since_ns=before.since_ns if before else time.time_ns(),
        )
        self._of[name], self._cards[name] = folder, card
        if card != before:
            with contextlib.suppress(OSError):
                write_cards(self._folders, self._cluster, self.cards)
        return card

    @property
    def cards(self) -> dict[str, Card]:
        """Of every run that was asked for."""
        return {
            name: msgspec.structs.replace(card, ended=lock_holder(self._of[name]) is None)
            for name, card in list(self._cards.items())
        }

    def _remember(self) -> None:
        """What an earlier one like this had: leaves go on looking for a root where it was."""
        for name, card in read_cards(self._folders).items():
            found = generations(self._folders, name)
            ours = card.cluster == self._cluster and card.host == host_name()
            if ours and card.token == self._token and found:
                self._of[name], self._cards[name] = found[-1], card

    def _ordered(self, folder: RunFolder, name: str) -> Part:
        before = self._cards.get(name)
        place = before.place if before else str(self._place)
        until = time.monotonic() + ANSWERS_WITHIN_S
        if lock_holder(folder) is None:
            start_observer(folder, os.environ)
        while True:
            with contextlib.suppress(OrderFailed):
                part = give_order(folder, Order(part="root", place=place, token=self._token))
                if part.part or not before or not part.why_not:
                    return part
                before, place = None, str(self._place)  # its port has been taken
            if time.monotonic() > until:
                return Part(part="", place="", why_not="it does not answer")
            time.sleep(_ASK_AGAIN_S)

    def _folder_of(self, name: str, began_ns: int) -> RunFolder:
        """The newest launch's; a new one where all that is there was over before this launch began."""
        found = generations(self._folders, name)
        if found and (
            lock_holder(found[-1]) is not None
            or any_alive(found[-1])
            or _last_written_ns(found[-1]) > began_ns
        ):
            return found[-1]
        folder = next_generation(self._folders, name)
        folder.create()
        return folder


def _last_written_ns(folder: RunFolder) -> int:
    times = [0]
    for stem in folder.stems(".journal"):
        with contextlib.suppress(OSError):
            times.append(os.stat(folder.journal(stem)).st_mtime_ns)
    return max(times)
