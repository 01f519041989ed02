"""The root observers of a cluster's runs, all on one node; made when somebody asks for them."""

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
"""So long after a node asked for it a run goes on: a root that was killed is on its way back."""
MOST_KEPT = 300
_ASK_AGAIN_S = 0.1


class RootFailed(Exception):
    """A run has no root; the text says why."""


class _Run:
    """What is known of one run.

    Attributes:
        asked_at, looked_at: monotonic; 0: never.
        at_work: a thread looks at it now.
    """

    def __init__(self, folder: RunFolder | None = None, card: Card | None = None) -> None:
        self.folder = folder
        self.card = card
        self.problem = ""
        self.began_ns = 0
        self.asked_at = 0.0
        self.looked_at = 0.0
        self.at_work = False

    @property
    def is_wanted(self) -> bool:
        return bool(self.asked_at) and time.monotonic() - self.asked_at < WANTED_FOR_S


class Roots:
    """Keeps one root a run. What is asked for again is looked at again, and mended.

    One that is stopped or slow holds up nobody: each run is looked at in a thread of its own, and
    who asks is answered with what is known.
    """

    def __init__(self, folders: str, place: RootAddress, cluster: str, kind: str = HOSTS) -> None:
        """
        Args:
            folders: the root of this node's run folders.
            place: this node's address, as the others reach it, and the port; 0 is any.
            cluster: the address that names the cluster.
            kind: as a card has it.
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
        # A keeper goes into the background by a fork; what others hold then nobody gives back.
        os.register_at_fork(after_in_child=self._begin)
        self._remember()

    def roots_of(
        self, runs: dict[str, int], *, ahead_ns: int = 0, within_s: float = ANSWERS_WITHIN_S
    ) -> tuple[dict[str, Card], dict[str, str]]:
        """The cards of all runs, and what is wrong with those that are asked for.

        Args:
            runs: by name when its launch began, by the wall clock of the node that asks.
            ahead_ns: how far this host's wall clock is ahead of that one.
            within_s: how long to wait, in all, for the first look at those that are new.
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
        """Of every run that was asked for, as far as it is not long over."""
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
        """Sees which runs have ended, and forgets those that are long over, or too many."""
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
        """As it is now; None where it has none, or was over long ago."""
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
        """What an earlier one like this had: leaves go on looking for a root where it was."""
        for name, card in read_cards(self._folders).items():
            found = generations(self._folders, name)
            ours = card.cluster == self.cluster and card.host == host_name()
            if ours and card.token == self._token and found:
                self._runs[name] = _Run(found[-1], card)

    def _want(self, name: str, began_ns: int) -> None:
        if folder_name(name) != name:
            return  # it would lead elsewhere
        run = self._runs.setdefault(name, _Run())
        run.asked_at, run.began_ns = time.monotonic(), began_ns
        due = not run.looked_at or time.monotonic() - run.looked_at >= LOOK_EVERY_S
        if due and not run.at_work:
            threading.Thread(
                target=self._look, args=(name, run), name="distwatch root", daemon=True
            ).start()
            run.at_work = True  # it ends it under the lock that we hold

    def _is_new(self, name: str) -> bool:
        run = self._runs.get(name)
        return run is not None and run.card is None and not run.looked_at

    def _problem(self, name: str) -> str:
        if folder_name(name) != name:
            return f"{name[:80]!r} is no name of a run"
        run = self._runs.get(name)
        if run is None or (run.card is None and not run.problem):
            return "its root is still being made"
        return run.problem

    def _look(self, name: str, run: _Run) -> None:
        problem = ""
        try:
            card = self._made(name, run)
        except RootFailed as error:
            card, problem = None, str(error)
        except Exception as error:
            card, problem = None, f"no root of {name} can be made: {error}"
        with self._changed:
            is_new = card is not None and card != run.card
            run.card, run.problem = card or run.card, problem
        try:
            if is_new:
                # Before anybody is told: who comes after this one finds the root where they look for it.
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
            raise RootFailed(f"the observer of {name} on {host_name()} is no root: {part.why_not}")
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
                before, place = "", str(self._place)  # its port has been taken
            if time.monotonic() > until:
                return Part(part="", place="", why_not="it does not answer")
            time.sleep(_ASK_AGAIN_S)
