"""A double of torch.distributed for programs whose ranks are threads: it matches calls, and keeps who waits."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from distwatch.diagnosis.facts.user_frame import is_library

WITHIN_S = 20.0
Chain = tuple[tuple[CodeType, int], ...]
"""Code and line, the outermost first."""


def is_double(file: str) -> bool:
    """Whether that is a file of this double, and not of a program."""
    return os.path.basename(file).startswith("acted_")


class Posted(NamedTuple):
    """A send or recv, the `posted`-th of its kind with that peer and tag."""

    number: int
    op: str
    peer: int
    tag: int
    posted: int
    chain: Chain


class Released(BaseException):
    """Ends a rank that waits for ever, once everything about it is noted."""


class Acting(threading.local):
    rank = -1
    syncs = True


class Fabric:
    """Matches the ranks' calls by their number, as a process group does."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.changed = threading.Condition()
        self.calls: list[list[tuple[str, int, Chain]]] = [[] for _ in range(world)]
        self.posts: list[list[Posted]] = [[] for _ in range(world)]
        self.groups: list[list[tuple[tuple[int, ...] | None, Chain]]] = [[] for _ in range(world)]
        self.loading: dict[int, str] = {}
        self.idle: dict[int, Callable[[], bool]] = {}
        """Ranks that wait, each with whether it may go on."""
        self.completed = 0
        self.over = False
        self.local = Acting()

    @property
    def rank(self) -> int:
        return self.local.rank

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Alone among the ranks; a rank that was released from a wait does nothing more, whatever it catches."""
        with self.changed:
            if self.over:
                raise Released
            yield

    def call(self, op: str, value: Any) -> Any:
        numel = len(value) if isinstance(value, (list, tuple)) else 1
        self._enter(op, numel, _users_chain(sys._getframe(2)))
        return value

    def post(self, op: str, peer: int, tag: int) -> None:
        """A send is over at once, as a small one is on gloo; a recv waits for its send."""
        me, chain = self.rank, _users_chain(sys._getframe(2))
        with self.acting():
            mine = self.posts[me]
            posted = 1 + sum(one[1:4] == (op, peer, tag) for one in mine)
            number = len(mine) + len(self.calls[me]) + 1
            mine.append(Posted(number, op, peer, tag, posted, chain))
            self.changed.notify_all()
            if op == "recv":
                self._wait(lambda: self.has_sent(peer, me, tag) >= posted)

    def has_sent(self, source: int, target: int, tag: int) -> int:
        return sum(one[1:4] == ("send", target, tag) for one in self.posts[source])

    def make_group(self, ranks: list[int] | None) -> None:
        """It waits until all whom it names have made that many calls, for the same members."""
        members = None if ranks is None else tuple(ranks)
        with self.acting():
            mine = self.groups[self.rank]
            mine.append((members, _users_chain(sys._getframe(2))))
            self.changed.notify_all()
            number = len(mine)
            if members is None or self.rank in members:
                self._wait(lambda: self.is_made(members, number))

    def is_made(self, members: tuple[int, ...] | None, number: int) -> bool:
        return all(
            len(self.groups[rank]) >= number and self.groups[rank][number - 1][0] == members
            for rank in (range(self.world) if members is None else members)
        )

    def load(self, path: str) -> None:
        """A checkpoint of that name is read at once, unless it is on a stalled mount."""
        if path.startswith("/stalled"):
            with self.acting():
                self.loading[self.rank] = path
                self._wait(lambda: False)

    def backward(self) -> None:
        if self.local.syncs:
            self._enter("allreduce", 64, ())

    @contextlib.contextmanager
    def without_sync(self) -> Iterator[None]:
        before, self.local.syncs = self.local.syncs, False
        try:
            yield
        finally:
            self.local.syncs = before

    def _enter(self, op: str, numel: int, chain: Chain) -> None:
        with self.acting():
            mine = self.calls[self.rank]
            mine.append((op, numel, chain))
            number = len(mine)
            self._match()
            self._wait(lambda: self.completed >= number)

    def _match(self) -> None:
        while True:
            at = [calls[self.completed][:2] for calls in self.calls if len(calls) > self.completed]
            if len(at) < self.world or len(set(at)) > 1:
                break
            self.completed += 1
        self.changed.notify_all()

    def stuck(self) -> None:
        """Never returns: a file, a lock, a peer outside the job."""
        with self.acting():
            self._wait(lambda: False)

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done():
            self.idle[self.rank] = done
            self.changed.notify_all()
            if not self.changed.wait(WITHIN_S) or self.over:
                raise Released
        self.idle.pop(self.rank, None)


def _users_chain(frame: FrameType | None) -> Chain:
    chain: list[tuple[CodeType, int]] = []
    while frame is not None:
        if not is_library(frame.f_code.co_filename) and not is_double(frame.f_code.co_filename):
            chain.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(chain))
