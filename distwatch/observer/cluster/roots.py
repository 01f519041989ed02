"""The root observers of a cluster's runs, all on one node; created on request."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import msgspec

from distwatch.observer.cluster.root_registry import (
    HOSTS,
    KEPT_NS,
    Card,
    newest_cards,
    read_cards,
    write_cards,
)
from distwatch.observer.cluster.run_generations import folder_of_launch, is_over, last_written_ns
from distwatch.observer.link.orders import Order, OrderFailed, Part, give_order
from distwatch.observer.link.root_address import RootAddress, make_token
from distwatch.observer.lock import lock_holder
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder, folder_name, generations, host_name, require_safe_root

ANSWERS_WITHIN_S = 15.0
LOOK_EVERY_S = 1.0
WANTED_FOR_S = 30.0
"""How long a run counts as living after a node asked for it: a killed root may be on its way back."""
MOST_KEPT = 300
_ASK_AGAIN_S = 0.1


class RootFailed(Exception):
    """A run has no root; the text says why."""


class _Run(msgspec.Struct):
    """What is known of one run.

    Attributes:
        asked_at, looked_at: monotonic; 0: never.
        at_work: a thread is checking it now.
    """

    folder: RunFolder | None = None
    card: Card | None = None
    problem: str = ""
    began_ns: int = 0
    asked_at: float = 0.0
    looked_at: float = 0.0
    at_work: bool = False

    @property
    def is_wanted(self) -> bool:
        return bool(self.asked_at) and time.monotonic() - self.asked_at < WANTED_FOR_S


class Roots:
    """Keeps one root for each run. Each request checks and repairs it.

    A stopped or slow root delays nobody: each run is checked in its own thread, and requests are
    answered with what is known.
    """

    def __init__(self, folders: str, place: RootAddress, cluster: str, kind: str = HOSTS) -> None:
        """
        Args:
            folders: the root of this node's run folders.
            place: the address at which others reach this node, and the port; 0 is any.
            cluster: the address that names the cluster.
            kind: as in a card.
        """
        self._folders = folders
        self._place = place
        self.cluster = cluster
        self._kind = kind
        self._runs: dict[str, _Run] = {}
        self._swept_at = -LOOK_EVERY_S
        require_safe_root(folders)
        self._token = make_token(folders)
        self._begin()
        # A keeper forks into the background: locks that other threads hold then are never released.
        os.register_at_fork(after_in_child=self._begin)
        self._remember()

    def roots_of(
        self, runs: dict[str, int], *, ahead_ns: int = 0, within_s: float = ANSWERS_WITHIN_S
    ) -> tuple[dict[str, Card], dict[str, str]]:
        """The cards of all runs, and the problems of the requested ones.

        Args:
            runs: the requested runs, and when each launch began by the requester's wall clock.
            ahead_ns: how far this host's wall clock is ahead of the requester's.
            within_s: how long to wait, in all, for the first check of new runs.
        """
        until = time.monotonic() + within_s
        with self._changed:
            for name, began_ns in runs.items():
                self._want(name, began_ns + ahead_ns)
            self._changed.wait_for(
                lambda: not any(self._is_new(name) for name in runs),
                timeout=max(until - time.monotonic(), 0.0),
            )
        problems = {name: self._problem(name) for name in runs}
        return self.cards, {name: problem for name, problem in problems.items() if problem}

    @property
    def cards(self) -> dict[str, Card]:
        """The cards of all requested runs that have not ended long ago."""
        if self._sweeping.acquire(blocking=False):
            try:
                if time.monotonic() - self._swept_at >= LOOK_EVERY_S:
                    self._sweep()
                    self._swept_at = time.monotonic()
            finally:
                self._sweeping.release()
        with self._changed:
            return {name: run.card for name, run in self._runs.items() if run.card is not None}

    def _sweep(self) -> None:
        """Finds out which runs have ended, and forgets old or too many of those."""
        with self._changed:
            runs = {name: run for name, run in self._runs.items() if run.card is not None}
        cards = {name: card for name, run in runs.items() if (card := self._card_of(run))}
        living = sum(not card.ended for card in cards.values())
        kept = newest_cards(cards, max(MOST_KEPT, living))
        with self._changed:
            for name in runs.keys() - kept.keys():
                if not runs[name].is_wanted:
                    self._runs.pop(name, None)

    def _card_of(self, run: _Run) -> Card | None:
        """The run's card as of now; None if it has none, or ended long ago."""
        with self._changed:
            before, folder = run.card, run.folder
        if before is None or folder is None:
            return None
        ended = not run.is_wanted and (
            is_over(folder) if not before.ended else lock_holder(folder) is None
        )
        if ended and time.time_ns() - last_written_ns(folder) > KEPT_NS:
            return None
        card = before if ended == before.ended else msgspec.structs.replace(before, ended=ended)
        with self._changed:
            if run.card is before:
                run.card = card
        return card

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._sweeping = threading.Lock()
        for run in self._runs.values():
            run.at_work = False

    def _remember(self) -> None:
        """Takes over the cards of an earlier process: leaves keep looking for roots at their old places."""
        for name, card in read_cards(self._folders).items():
            found = generations(self._folders, name)
            ours = card.cluster == self.cluster and card.host == host_name()
            if ours and card.token == self._token and found:
                self._runs[name] = _Run(found[-1], card)

    def _want(self, name: str, began_ns: int) -> None:
        if folder_name(name) != name:
            return  # it would lead to another folder
        run = self._runs.setdefault(name, _Run())
        run.asked_at, run.began_ns = time.monotonic(), began_ns
        due = not run.looked_at or time.monotonic() - run.looked_at >= LOOK_EVERY_S
        if due and not run.at_work:
            threading.Thread(
                target=self._look, args=(name, run), name="distwatch root", daemon=True
            ).start()
            run.at_work = True  # the thread resets it under the lock that is held here

    def _is_new(self, name: str) -> bool:
        run = self._runs.get(name)
        return run is not None and run.card is None and not run.looked_at

    def _problem(self, name: str) -> str:
        if folder_name(name) != name:
            return f"{name[:80]!r} is not a valid run name"
        run = self._runs.get(name)
        if run is None or (run.card is None and not run.problem):
            return "its root is being created"
        return run.problem

    def _look(self, name: str, run: _Run) -> None:
        problem = ""
        try:
            card = self._made(name, run)
        except RootFailed as error:
            card, problem = None, str(error)
        except Exception as error:
            card, problem = None, f"could not create a root of {name}: {error}"
        with self._changed:
            is_new = card is not None and card != run.card
            run.card, run.problem = card or run.card, problem
        try:
            if is_new:
                # Written before anybody gets the card: a successor of this process must find it.
                with self._writing, contextlib.suppress(OSError):
                    write_cards(self._folders, self.cluster, self.cards)
        finally:
            with self._changed:
                run.looked_at, run.at_work = time.monotonic(), False
                self._changed.notify_all()

    def _made(self, name: str, run: _Run) -> Card:
        folder = folder_of_launch(self._folders, name, run.began_ns)
        same = run.card is not None and run.folder is not None and run.folder.path == folder.path
        part = self._ordered(folder, run.card.place if run.card is not None else "")
        if part.why_not or part.part != "root":
            raise RootFailed(
                f"the observer of {name} on {host_name()} is not a root: {part.why_not}"
            )
        run.folder = folder
        return Card(
            cluster=self.cluster,
            kind=self._kind,
            place=part.place,
            token=self._token,
            host=host_name(),
            since_ns=run.card.since_ns if same and run.card is not None else time.time_ns(),
        )

    def _ordered(self, folder: RunFolder, before: str) -> Part:
        place = before or str(self._place)
        until = time.monotonic() + ANSWERS_WITHIN_S
        if lock_holder(folder) is None:
            start_observer(folder, os.environ)
        while True:
            with contextlib.suppress(OrderFailed):
                part = give_order(folder, Order(part="root", place=place, token=self._token))
                if part.part or not before or not part.why_not:
                    return part
                before, place = "", str(self._place)  # another process has its old port
            if time.monotonic() > until:
                return Part(part="", place="", why_not="it does not answer")
            time.sleep(_ASK_AGAIN_S)
