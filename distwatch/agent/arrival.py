"""Every rank of a world says that it has come and what it means to form, and sees who has not.

Built so that a world of 10,000 ranks can do it: each waiting rank reads one counter and one
key; the ranks' own words are read one by one only when something is wrong.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from distwatch.agent.board import Board
from distwatch.errors import InitFailed
from distwatch.runfolder import is_alive
from distwatch.state.agreement import disagreements
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
_MOST_RANKS = 1 << 16
_FAILED = "failed"
_FORMED = "formed"


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's word on the board."""

    plan: InitPlanned
    host: str
    pid: int
    start_ticks: int
    command: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a missing rank is, as seen from one host."""

    host: str
    standing: Literal["alive", "ended", "unseen", "unknown"]
    """unknown: nobody looked; `text` says why."""
    text: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the world cannot form, for those that come later."""

    step: str
    message: str
    finding: Finding


_read_arrived = msgspec.msgpack.Decoder(Arrived)
_read_view = msgspec.msgpack.Decoder(dict[int, Place])
_read_failure = msgspec.msgpack.Decoder(Failure)


class Arrival:
    """One rank's part in the arrival of a world. Not for several threads at once."""

    def __init__(self, board: Board, me: Arrived, global_rank: int, world_size: int) -> None:
        self._board = board
        self._me = me
        self._world_size = world_size
        self._largest = world_size
        self.global_rank = global_rank
        self.seen: dict[int, Arrived] = {global_rank: me}
        """Ranks whose word was read."""
        self.warnings: list[Finding] = []
        """Disagreements that do not keep the world from forming."""

    def come(self) -> None:
        """Leaves this rank's word.

        Raises:
            InitFailed: another process has come as this rank, or the others plan otherwise.
        """
        own = msgspec.msgpack.encode(self._me)
        key = f"rank/{self.global_rank}"
        held = self._board.claim(key, own)
        if held == own:
            self._board.count()
        elif not self._is_over(other := self._read(held)) or self._board.get(_FORMED) is not None:
            raise self.fail("arrival", _duplicated(self.global_rank, self._me, other))
        else:
            # A supervisor has started it again while the others still wait: it is counted already.
            self._board.claim(key, own, instead_of=held)
        own_terms = msgspec.msgpack.encode(_terms(self._me.plan))
        if (terms := self._board.claim("terms", own_terms)) != own_terms:
            self._largest = max(self._largest, _world_of(terms))
            self.compare()

    def wait(
        self, until: float, patience_s: float, tell: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Waits for every rank; False when the rest is left to torch, which waits for it, too.

        Ranks that call torch directly never leave word here. Where the store shows that they
        have come, or after `patience_s`, torch's own rendezvous takes over.

        Args:
            until: of `time.monotonic`.
            tell: is given the number of ranks that have come, whenever it has changed.

        Raises:
            InitFailed: the world cannot form.
            TimeoutError: `until` has passed.
            OSError: the board is lost.
        """
        patient_until = time.monotonic() + patience_s
        pause_s, told = FIRST_PAUSE_S, 0
        while True:
            self.look()
            here = self.count()
            if here != told:
                tell(here)
                told, pause_s = here, FIRST_PAUSE_S
            if here >= self._world_size:
                return True
            now = time.monotonic()
            if here + self._board.count_others() >= self._world_size or now > patient_until:
                return False
            if now > until:
                raise TimeoutError
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    def _is_over(self, other: Arrived) -> bool:
        return other.host == self._me.host and not is_alive(other.pid, other.start_ticks)

    def leave(self) -> bool:
        """Says that this rank has left the world; True for the one that is the last."""
        self._board.set(f"left/{self.global_rank}", b"1")
        left = (self._board.get(f"left/{rank}") for rank in range(self._world_size))
        return all(word is not None for word in left)

    def all_over(self) -> bool:
        """Whether every process that has left word here has ended, as far as this host can see."""
        words = (self._board.get(f"rank/{rank}") for rank in range(self._world_size))
        others = [self._read(word) for word in words if word is not None]
        return bool(others) and all(self._is_over(other) for other in others)

    def formed(self) -> None:
        """Leaves word that the world holds: who comes now comes too late."""
        self._board.set(_FORMED, b"1")

    def count(self) -> int:
        """How many ranks have left word."""
        return self._board.counted()

    def look(self) -> None:
        """Looks whether some rank has found that the world cannot form.

        Raises:
            InitFailed: it has; with its finding.
        """
        raw = self._board.get(_FAILED)
        if raw is not None:
            failure = _read_failure.decode(raw)
            self._board.set(f"knows/{self.global_rank}", b"1")
            raise InitFailed(
                failure.message,
                step=failure.step,
                advice=failure.finding.advice,
                finding=failure.finding,
            )

    def sweep(self) -> tuple[int, ...]:
        """Reads every rank's word; the ranks that have left none."""
        for rank in range(self._world_size):
            if rank not in self.seen and (raw := self._board.get(f"rank/{rank}")) is not None:
                self.seen[rank] = self._read(raw)
        return tuple(rank for rank in range(self._world_size) if rank not in self.seen)

    def compare(self) -> None:
        """Compares all plans that are known.

        Raises:
            InitFailed: they differ in what keeps the world from forming.
        """
        self.sweep()
        self._read_beyond()
        plans = {rank: arrived.plan for rank, arrived in self.seen.items()}
        hosts = {rank: arrived.host for rank, arrived in self.seen.items()}
        found = disagreements(plans, hosts)
        self.warnings = [finding for finding in found if not finding.blocks]
        if blocking := [finding for finding in found if finding.blocks]:
            raise self.fail("agreement", blocking[0])

    def _read_beyond(self) -> None:
        """Who planned a larger world may stand beyond the end of ours."""
        for rank in range(self._world_size, self._largest):
            if rank not in self.seen and (raw := self._board.get(f"rank/{rank}")) is not None:
                self.seen[rank] = self._read(raw)

    def fail(self, step: str, finding: Finding) -> InitFailed:
        """Leaves word of a failure for the others; the first one stands. The error to raise."""
        failure = Failure(step=step, message=finding.summary, finding=finding)
        self._board.claim(_FAILED, msgspec.msgpack.encode(failure))
        self._board.set(f"knows/{self.global_rank}", b"1")
        return InitFailed(finding.summary, step=step, advice=finding.advice, finding=finding)

    def linger(self, until: float) -> None:
        """Stays until every rank of the world knows of the failure, at most until then.

        The rank that hosts the store takes the board with it when it ends.
        """
        unknowing = set(range(self._world_size)) - {self.global_rank}
        with contextlib.suppress(OSError):
            while unknowing and time.monotonic() < until:
                knowing = {r for r in unknowing if self._board.get(f"knows/{r}") is not None}
                unknowing -= knowing
                time.sleep(LONGEST_PAUSE_S)

    def leave_view(self, places: Mapping[int, Place]) -> None:
        """Tells the others where missing ranks are, as seen from this host."""
        self._board.set(f"view/{self.global_rank}", msgspec.msgpack.encode(places))

    def gather_views(self, longest_s: float) -> dict[int, list[Place]]:
        """What every rank that has come sees of the missing ones, by missing rank."""
        until = time.monotonic() + longest_s
        waiting, views = set(self.seen), dict[int, list[Place]]()
        while waiting:
            for rank in sorted(waiting):
                if (raw := self._board.get(f"view/{rank}")) is not None:
                    waiting.discard(rank)
                    for missing, place in _read_view.decode(raw).items():
                        known = views.setdefault(missing, [])
                        known += [place] if place not in known else []
            if time.monotonic() > until:
                break
            if waiting:
                time.sleep(LONGEST_PAUSE_S)
        return views

    def agree_on(self, key: str, value: bytes) -> bytes:
        """The first word on a matter stands for all."""
        return self._board.claim(key, value)

    def put(self, key: str, value: bytes) -> None:
        """Leaves this rank's word on a matter."""
        self._board.set(f"{key}/{self.global_rank}", value)

    def collect(self, key: str, ranks: tuple[int, ...], until: float) -> dict[int, bytes]:
        """The words of those ranks on a matter, waited for.

        Raises:
            InitFailed: some rank has found that the world cannot form.
            TimeoutError: not all came; `args[0]` are the ranks that did not.
        """
        words: dict[int, bytes] = {}
        pause_s = FIRST_PAUSE_S
        while True:
            for rank in ranks:
                if rank not in words and (raw := self._board.get(f"{key}/{rank}")) is not None:
                    words[rank] = raw
            if len(words) == len(ranks):
                return words
            self.look()
            if time.monotonic() > until:
                raise TimeoutError(tuple(rank for rank in ranks if rank not in words))
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    def _read(self, raw: bytes) -> Arrived:
        try:
            return _read_arrived.decode(raw)
        except msgspec.DecodeError as error:
            raise InitFailed(
                f"a rank's word on the board cannot be read: {error}",
                step="arrival",
                advice="Install the same distwatch on every host.",
            ) from error


def _terms(plan: InitPlanned) -> tuple[object, ...]:
    """What every plan of a world has in common; where it differs, all plans are compared."""
    return (
        plan.world_size,
        plan.backend,
        plan.timeout_s,
        plan.framework,
        sorted(plan.sizes.items()),
        plan.order,
        sorted(plan.variables.items()),
        plan.versions.get("torch"),
    )


def _world_of(terms: bytes) -> int:
    with contextlib.suppress(msgspec.DecodeError, IndexError):
        world = msgspec.msgpack.decode(terms, type=tuple[Any, ...])[0]
        return min(world, _MOST_RANKS) if isinstance(world, int) else 0
    return 0


def _duplicated(global_rank: int, me: Arrived, other: Arrived) -> Finding:
    return Finding(
        code="rendezvous.rank_duplicated",
        severity="hang",
        culprit_ranks=(global_rank,),
        summary=f"two processes are rank {global_rank}: pid {other.pid} on {other.host} and pid {me.pid} on {me.host}",
        advice="Start each rank once: check RANK (or --node-rank) of both, and that no earlier run is left over.",
        evidence=tuple(
            Evidence(
                source="journal",
                global_rank=global_rank,
                text=f"rank {global_rank} is claimed by pid {one.pid} on {one.host}: {one.command}",
            )
            for one in (other, me)
        ),
    )
