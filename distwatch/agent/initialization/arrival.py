"""The arrival of a world: each rank reports itself and its plan, and sees which ranks are missing.

Built for worlds of 10,000 ranks: an arriving rank claims a few keys, a waiting rank reads one key and
one counter. The ranks' messages are read one by one only if something is wrong, and by one rank for
all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from distwatch.agent.initialization.arrival_messages import (
    Arrived,
    Failure,
    TimedOut,
    View,
    Whereabouts,
    encode,
    error_of,
    host_terms_of,
    read_arrived,
    read_failure,
    read_progress,
    read_view,
    terms_of,
    world_of,
)
from distwatch.agent.initialization.key_value_store import KeyValueStore
from distwatch.errors import InitFailed, InitTimeout
from distwatch.runfolder import is_alive
from distwatch.state.agreement import disagreements
from distwatch.state.finding import Evidence, Finding
from distwatch.state.group_creation import CreationProgress

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
RANKS_A_SECOND = 10_000
"""Requests per second that a store easily serves: larger worlds poll less often."""
SETTLE_S = 1.0
"""Two plans alone do not show which one is odd: wait a moment to see what most ranks plan."""
VIEWS_WITHIN_S = 3.5
FINAL_WITHIN_S = 8.0
_FAILED = "failed"
_FORMED = "formed"


class Late(Exception):
    """A deadline has passed. Not a TimeoutError, which means that the store does not answer."""

    def __init__(self, missing: tuple[int, ...] = ()) -> None:
        super().__init__(missing)
        self.missing = missing


T = TypeVar("T")
LookFor = Callable[[tuple[int, ...]], View]


class Arrival:
    """One rank's part in the arrival of a world. Not thread-safe."""

    def __init__(
        self,
        key_values: KeyValueStore,
        me: Arrived,
        global_rank: int,
        world_size: int,
        look_for: LookFor = lambda _: {},
    ) -> None:
        """`look_for`: finds missing ranks, as seen from this host."""
        self._key_values = key_values
        self._me = me
        self._world_size = world_size
        self._largest = world_size
        self._look_for = look_for
        self._differs = False
        self._counted = False
        self._pause_s = max(LONGEST_PAUSE_S, world_size / RANKS_A_SECOND)
        self.global_rank = global_rank
        self.seen: dict[int, Arrived] = {global_rank: me}
        """Messages of ranks that were read."""
        self.warnings: list[Finding] = []
        """Disagreements that do not prevent the world from forming."""

    def come(self) -> None:
        """Reports this rank.

        Raises:
            InitFailed: another process has reported itself as this rank, or the plans differ.
        """
        own = encode(self._me)
        key = f"rank/{self.global_rank}"
        held = self._key_values.claim(key, own)
        if held != own and (
            not self._is_over(other := _decoded(read_arrived, held))
            or self._key_values.get(_FORMED) is not None
        ):
            raise self.fail("arrival", _duplicated(self.global_rank, self._me, other))
        if held != own:
            # A supervisor has restarted this rank while the others still wait.
            self._key_values.claim(key, own, instead_of=held)
        terms = self._key_values.claim("terms", terms_of(self._me.plan))
        self._largest = max(self._largest, world_of(terms))
        self._differs = terms != terms_of(self._me.plan) or self._differs_nearby()
        self.agree()
        # Not before: who sees that all have come goes on, and must not miss that they differ.
        if self._key_values.claim(f"counted/{self.global_rank}", own) == own:
            self._key_values.count()
        self._counted = True

    def _differs_nearby(self) -> bool:
        """Whether another rank on this host has claimed the same GPU, or uses another network."""
        plan, rank = self._me.plan, str(self.global_rank).encode()
        host_terms = host_terms_of(plan)
        if self._key_values.claim(f"host/{self._me.host}", host_terms) != host_terms:
            return True
        return bool(plan.device) and self._key_values.claim(f"device/{plan.device}", rank) != rank

    def wait(
        self, until: float, patience_s: float, turn: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Waits for every rank; False if torch's own rendezvous must wait for the rest.

        Ranks that call torch directly never report themselves here. Where the store shows that they
        have arrived, or after `patience_s`, torch's rendezvous takes over.

        Args:
            until: of `time.monotonic`.
            turn: called again and again with the number of arrived ranks; may raise InitFailed.

        Raises:
            InitFailed: the world cannot form.
            Late: `until` has passed.
            OSError: the store is lost.
        """
        patient_until = time.monotonic() + patience_s
        pause_s, told = FIRST_PAUSE_S, 0
        while True:
            self.look()
            here = self.count()
            turn(here)
            if here != told:
                told, pause_s = here, FIRST_PAUSE_S
            if here >= self._world_size:
                return True
            now = time.monotonic()
            if here + self._key_values.count_others() >= self._world_size or now > patient_until:
                return False
            if now > until:
                raise Late
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, self._pause_s)

    def _is_over(self, other: Arrived) -> bool:
        return other.host == self._me.host and not is_alive(other.pid, other.start_ticks)

    def leave(self) -> bool:
        """Records that this rank has left the world; True for the last rank."""
        self._key_values.set(f"left/{self.global_rank}", b"1")
        left = (self._key_values.get(f"left/{rank}") for rank in range(self._world_size))
        return all(word is not None for word in left)

    def all_over(self) -> bool:
        """Whether every process that has reported itself has ended, as far as this host can see."""
        words = (self._key_values.get(f"rank/{rank}") for rank in range(self._world_size))
        others = [_decoded(read_arrived, word) for word in words if word is not None]
        return bool(others) and all(self._is_over(other) for other in others)

    def formed(self) -> None:
        """Records that the world has formed: whoever arrives now is too late."""
        self._key_values.set(_FORMED, b"1")

    def count(self) -> int:
        """How many ranks have reported themselves."""
        return self._key_values.counted()

    def look(self) -> None:
        """Checks whether some rank has reported a failure.

        Raises:
            InitFailed: a rank has; with its finding.
            InitTimeout: its deadline has passed; with what every host saw.
        """
        raw = self._key_values.get(_FAILED)
        if raw is not None:
            raise self._follow(_decoded(read_failure, raw))

    def _follow(self, failure: Failure) -> InitFailed:
        """Another rank's failure, once it is final; until then that rank asks every host for its view."""
        until = time.monotonic() + FINAL_WITHIN_S
        if not failure.final and failure.timed_out is not None:
            self._leave_view(failure.timed_out.missing)
        while not failure.final and time.monotonic() < until:
            time.sleep(LONGEST_PAUSE_S)
            failure = _decoded(read_failure, self._key_values.get(_FAILED) or encode(failure))
        self._key_values.set(f"knows/{self.global_rank}", b"1")
        return error_of(failure)

    def sweep(self) -> tuple[int, ...]:
        """Reads every rank's message; returns the ranks without one."""
        for rank in range(self._world_size):
            if rank not in self.seen and (raw := self._key_values.get(f"rank/{rank}")) is not None:
                self.seen[rank] = _decoded(read_arrived, raw)
        return tuple(rank for rank in range(self._world_size) if rank not in self.seen)

    def agree(self) -> None:
        """Compares all plans, if any were seen to differ.

        Raises:
            InitFailed: they differ so that the world cannot form.
        """
        if self._differs:
            self.compare()

    def compare(self) -> None:
        """Compares all plans that are known.

        Raises:
            InitFailed: they differ so that the world cannot form.
        """
        until = time.monotonic() + SETTLE_S
        while True:
            missing = self.sweep()
            self._read_beyond()
            plans = {rank: arrived.plan for rank, arrived in self.seen.items()}
            hosts = {rank: arrived.host for rank, arrived in self.seen.items()}
            found = disagreements(plans, hosts)
            blocking = [finding for finding in found if finding.blocks]
            decided = not blocking or blocking[0].confidence > 0.9
            if decided or not missing or time.monotonic() > until:
                break
            time.sleep(self._pause_s)
        self.warnings = [finding for finding in found if not finding.blocks]
        if blocking:
            raise self.fail("agreement", blocking[0])

    def _read_beyond(self) -> None:
        """A rank that plans a larger world may have a number beyond our world's end."""
        come = self.count() + (not self._counted)
        for rank in range(self._world_size, self._largest):
            # The claimed size may be huge: stop once every arrived rank has been found.
            if len(self.seen) >= come:
                break
            if rank not in self.seen and (raw := self._key_values.get(f"rank/{rank}")) is not None:
                self.seen[rank] = _decoded(read_arrived, raw)

    def fail(self, step: str, finding: Finding) -> InitFailed:
        """Reports a failure to the other ranks; the first one counts. Returns the error to raise."""
        failure = Failure(step=step, message=finding.summary, finding=finding)
        self._key_values.claim(_FAILED, encode(failure))
        self._key_values.set(f"knows/{self.global_rank}", b"1")
        return error_of(failure)

    def collect_missing(
        self, step: str, deadline_s: float, absent: tuple[int, ...] | None = None
    ) -> tuple[TimedOut, dict[int, list[Whereabouts]]]:
        """This rank's deadline has passed: which ranks are missing, and where each host sees them.

        Args:
            absent: those that the step waits for; default: the ranks that have not reported themselves.

        Raises:
            InitFailed: another rank was first; its failure.
        """
        missing = self.sweep() if absent is None else absent
        arrived = tuple(sorted(set(self.seen) - set(missing)))
        timed_out = TimedOut(deadline_s=deadline_s, arrived=arrived, missing=missing)
        asking = encode(Failure(step=step, message="", timed_out=timed_out, final=False))
        held = self._key_values.claim(_FAILED, asking)
        if held != asking:
            raise self._follow(_decoded(read_failure, held))
        self._leave_view(missing)
        return timed_out, self._gather_views(missing)

    def conclude(self, error: InitTimeout) -> None:
        """Publishes the result of `collect_missing` in place of the question."""
        timed_out = TimedOut(
            deadline_s=error.deadline_s,
            arrived=error.arrived,
            missing=error.missing,
            places=error.places,
        )
        failure = Failure(
            step=error.step, message=error.args[0], finding=error.finding, timed_out=timed_out
        )
        self._key_values.set(_FAILED, encode(failure))
        self._key_values.set(f"knows/{self.global_rank}", b"1")

    def linger(self, until: float) -> None:
        """Waits until every rank knows about the failure, at most until that time.

        The store ends with the rank that hosts it.
        """
        unknowing = set(range(self._world_size)) - {self.global_rank}
        with contextlib.suppress(OSError):
            while unknowing and time.monotonic() < until:
                knowing = {r for r in unknowing if self._key_values.get(f"knows/{r}") is not None}
                unknowing -= knowing
                time.sleep(LONGEST_PAUSE_S)

    def _leave_view(self, missing: tuple[int, ...]) -> None:
        """One rank of each host looks for the missing ranks."""
        rank = str(self.global_rank).encode()
        if self._key_values.claim(f"viewer/{self._me.host}", rank) == rank:
            self._key_values.set(f"view/{self._me.host}", encode(self._look_for(missing)))

    def _gather_views(self, missing: tuple[int, ...]) -> dict[int, list[Whereabouts]]:
        until = time.monotonic() + VIEWS_WITHIN_S
        waiting = {arrived.host for arrived in self.seen.values()}
        views: dict[int, list[Whereabouts]] = {rank: [] for rank in missing}
        while True:
            for host in sorted(waiting):
                if (raw := self._key_values.get(f"view/{host}")) is not None:
                    waiting.discard(host)
                    with contextlib.suppress(msgspec.DecodeError):
                        for rank, place in read_view(raw).items():
                            views.setdefault(rank, []).append(place)
            if not waiting or time.monotonic() > until:
                return views
            time.sleep(LONGEST_PAUSE_S)

    def progress(self, without: tuple[int, ...]) -> dict[int, CreationProgress]:
        """How far each rank is with the framework's groups; not of ranks that cannot tell.

        Args:
            without: ranks that build them without `distwatch.initialize`.
        """
        found: dict[int, CreationProgress] = {}
        for rank in sorted(set(range(self._world_size)) - set(without)):
            raw = self._key_values.get(f"groups/{rank}")
            told = _decoded(read_progress, raw) if raw is not None else CreationProgress()
            if told is not None:
                found[rank] = told
        return found

    def agree_on(self, key: str, value: bytes) -> bytes:
        """The first rank's value for a key; it counts for all."""
        return self._key_values.claim(key, value)

    def put(self, key: str, value: bytes) -> None:
        """Writes this rank's value for a key."""
        self._key_values.set(f"{key}/{self.global_rank}", value)

    def collect(self, key: str, ranks: tuple[int, ...], until: float) -> dict[int, bytes]:
        """Waits for those ranks' values for a key.

        Raises:
            InitFailed: some rank has reported a failure.
            Late: some did not arrive in time: `missing`.
        """
        words: dict[int, bytes] = {}
        pause_s = FIRST_PAUSE_S
        while True:
            for rank in ranks:
                if rank not in words and (raw := self._key_values.get(f"{key}/{rank}")) is not None:
                    words[rank] = raw
            if len(words) == len(ranks):
                return words
            self.look()
            if time.monotonic() > until:
                raise Late(tuple(rank for rank in ranks if rank not in words))
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)


def unreadable(error: Exception) -> InitFailed:
    """The error for a message of another version, or of another program."""
    return InitFailed(
        f"cannot read another rank's message in the store: {error}",
        step="arrival",
        advice="Install the same distwatch on every host.",
    )


def _decoded(read: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return read(raw)
    except msgspec.DecodeError as error:
        raise unreadable(error) from error


def _duplicated(global_rank: int, me: Arrived, other: Arrived) -> Finding:
    return Finding(
        code="rendezvous.rank_duplicated",
        culprit_ranks=(global_rank,),
        summary=f"two processes are rank {global_rank}: pid {other.pid} on {other.host} and pid {me.pid} on {me.host}",
        evidence=tuple(
            Evidence(
                "journal",
                f"rank {global_rank} is claimed by pid {one.pid} on {one.host}: {one.command}",
                global_rank,
            )
            for one in (other, me)
        ),
    )
