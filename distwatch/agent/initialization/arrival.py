"""Every rank of a world says that it has come and what it means to form, and sees who has not.

Built for worlds of 10,000 ranks: a rank that comes claims a handful of keys, a rank that waits
reads one key and one counter, and the ranks' own words are read one by one only when something
is wrong, by one rank for all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import msgspec

from distwatch.agent.initialization.arrival_messages import (
    Arrived,
    Failure,
    TimedOut,
    View,
    Whereabouts,
    encode,
    host_terms_of,
    read_arrived,
    read_failure,
    read_view,
    terms_of,
    world_of,
)
from distwatch.agent.initialization.key_value_store import KeyValueStore
from distwatch.errors import InitFailed, InitTimeout
from distwatch.runfolder import is_alive
from distwatch.state.agreement import disagreements
from distwatch.state.finding import Evidence, Finding

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
RANKS_A_SECOND = 10_000
"""How many waiting ranks a store serves at ease: larger worlds look less often."""
SETTLE_S = 1.0
"""With two plans at hand nobody is the odd one out: a moment more shows what most ranks plan."""
VIEWS_WITHIN_S = 3.5
FINAL_WITHIN_S = 8.0
_FAILED = "failed"
_FORMED = "formed"


class Late(Exception):
    """A deadline has passed. Not a TimeoutError: that is a store that does not answer."""

    def __init__(self, missing: tuple[int, ...] = ()) -> None:
        super().__init__(missing)
        self.missing = missing


LookFor = Callable[[tuple[int, ...]], View]


class Arrival:
    """One rank's part in the arrival of a world. Not for several threads at once."""

    def __init__(
        self,
        key_values: KeyValueStore,
        me: Arrived,
        global_rank: int,
        world_size: int,
        look_for: LookFor = lambda _: {},
    ) -> None:
        """`look_for`: where missing ranks are, as seen from this host."""
        self._key_values = key_values
        self._me = me
        self._world_size = world_size
        self._largest = world_size
        self._look_for = look_for
        self._differs = False
        self._pause_s = max(LONGEST_PAUSE_S, world_size / RANKS_A_SECOND)
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
        own = encode(self._me)
        key = f"rank/{self.global_rank}"
        held = self._key_values.claim(key, own)
        if held == own:
            self._key_values.count()
        elif (
            not self._is_over(other := self._read(held))
            or self._key_values.get(_FORMED) is not None
        ):
            raise self.fail("arrival", _duplicated(self.global_rank, self._me, other))
        else:
            # A supervisor has started it again while the others still wait: it is counted already.
            self._key_values.claim(key, own, instead_of=held)
        terms = self._key_values.claim("terms", terms_of(self._me.plan))
        self._largest = max(self._largest, world_of(terms))
        self._differs = terms != terms_of(self._me.plan) or self._differs_nearby()
        if self._differs:
            self.compare()

    def _differs_nearby(self) -> bool:
        """Whether another rank has claimed this one's GPU, or talks over another network here."""
        plan, rank = self._me.plan, str(self.global_rank).encode()
        host_terms = host_terms_of(plan)
        if self._key_values.claim(f"host/{self._me.host}", host_terms) != host_terms:
            return True
        return bool(plan.device) and self._key_values.claim(f"device/{plan.device}", rank) != rank

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
            Late: `until` has passed.
            OSError: the key_values is lost.
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
            if here + self._key_values.count_others() >= self._world_size or now > patient_until:
                return False
            if now > until:
                raise Late
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, self._pause_s)

    def _is_over(self, other: Arrived) -> bool:
        return other.host == self._me.host and not is_alive(other.pid, other.start_ticks)

    def leave(self) -> bool:
        """Says that this rank has left the world; True for the one that is the last."""
        self._key_values.set(f"left/{self.global_rank}", b"1")
        left = (self._key_values.get(f"left/{rank}") for rank in range(self._world_size))
        return all(word is not None for word in left)

    def all_over(self) -> bool:
        """Whether every process that has left word here has ended, as far as this host can see."""
        words = (self._key_values.get(f"rank/{rank}") for rank in range(self._world_size))
        others = [self._read(word) for word in words if word is not None]
        return bool(others) and all(self._is_over(other) for other in others)

    def formed(self) -> None:
        """Leaves word that the world holds: who comes now comes too late."""
        self._key_values.set(_FORMED, b"1")

    def count(self) -> int:
        """How many ranks have left word."""
        return self._key_values.counted()

    def look(self) -> None:
        """Looks whether some rank has found that the world does not form.

        Raises:
            InitFailed: it has; with its finding.
            InitTimeout: its deadline has passed first; with what every host saw.
        """
        raw = self._key_values.get(_FAILED)
        if raw is not None:
            raise self._follow(_read_failure(raw))

    def _follow(self, failure: Failure) -> InitFailed:
        """Another rank's failure, once it is final: till then it asks every host for its view."""
        until = time.monotonic() + FINAL_WITHIN_S
        if not failure.final and failure.timed_out is not None:
            self._leave_view(failure.timed_out.missing)
        while not failure.final and time.monotonic() < until:
            time.sleep(LONGEST_PAUSE_S)
            failure = _read_failure(self._key_values.get(_FAILED) or encode(failure))
        self._key_values.set(f"knows/{self.global_rank}", b"1")
        return _error_of(failure)

    def sweep(self) -> tuple[int, ...]:
        """Reads every rank's word; the ranks that have left none."""
        for rank in range(self._world_size):
            if rank not in self.seen and (raw := self._key_values.get(f"rank/{rank}")) is not None:
                self.seen[rank] = self._read(raw)
        return tuple(rank for rank in range(self._world_size) if rank not in self.seen)

    def agree(self) -> None:
        """Once all have come: where plans were seen to differ, the whole of it.

        Raises:
            InitFailed: they differ in what keeps the world from forming.
        """
        if self._differs:
            self.compare()

    def compare(self) -> None:
        """Compares all plans that are known.

        Raises:
            InitFailed: they differ in what keeps the world from forming.
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
        """Who planned a larger world may stand beyond the end of ours."""
        come = self.count()
        for rank in range(self._world_size, self._largest):
            # A world of any size can be claimed: only as far as somebody is left to be found.
            if len(self.seen) >= come:
                break
            if rank not in self.seen and (raw := self._key_values.get(f"rank/{rank}")) is not None:
                self.seen[rank] = self._read(raw)

    def fail(self, step: str, finding: Finding) -> InitFailed:
        """Leaves word of a failure for the others; the first one stands. The error to raise."""
        failure = Failure(step=step, message=finding.summary, finding=finding)
        self._key_values.claim(_FAILED, encode(failure))
        self._key_values.set(f"knows/{self.global_rank}", b"1")
        return _error_of(failure)

    def collect_missing(
        self, step: str, deadline_s: float
    ) -> tuple[TimedOut, dict[int, list[Whereabouts]]]:
        """A deadline has passed here first: who is missing, and where every host sees them.

        Raises:
            InitFailed: another rank was faster; its failure.
        """
        missing = self.sweep()
        timed_out = TimedOut(
            deadline_s=deadline_s, arrived=tuple(sorted(self.seen)), missing=missing
        )
        asking = encode(Failure(step=step, message="", timed_out=timed_out, final=False))
        held = self._key_values.claim(_FAILED, asking)
        if held != asking:
            raise self._follow(_read_failure(held))
        self._leave_view(missing)
        return timed_out, self._gather_views(missing)

    def conclude(self, error: InitTimeout) -> None:
        """Leaves what the roll call came to, in place of the question."""
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
        """Stays until every rank of the world knows of the failure, at most until then.

        The rank that hosts the store takes the key_values with it when it ends.
        """
        unknowing = set(range(self._world_size)) - {self.global_rank}
        with contextlib.suppress(OSError):
            while unknowing and time.monotonic() < until:
                knowing = {r for r in unknowing if self._key_values.get(f"knows/{r}") is not None}
                unknowing -= knowing
                time.sleep(LONGEST_PAUSE_S)

    def _leave_view(self, missing: tuple[int, ...]) -> None:
        """One rank of each host looks for the missing ones."""
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

    def agree_on(self, key: str, value: bytes) -> bytes:
        """The first word on a matter stands for all."""
        return self._key_values.claim(key, value)

    def put(self, key: str, value: bytes) -> None:
        """Leaves this rank's word on a matter."""
        self._key_values.set(f"{key}/{self.global_rank}", value)

    def collect(self, key: str, ranks: tuple[int, ...], until: float) -> dict[int, bytes]:
        """The words of those ranks on a matter, waited for.

        Raises:
            InitFailed: some rank has found that the world cannot form.
            Late: not all came; `missing` are the ranks that did not.
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

    def _read(self, raw: bytes) -> Arrived:
        try:
            return read_arrived(raw)
        except msgspec.DecodeError as error:
            raise unreadable(error) from error


def unreadable(error: Exception) -> InitFailed:
    """What another rank left cannot be read: it is of another version, or of somebody else."""
    return InitFailed(
        f"a rank's word on the key_values cannot be read: {error}",
        step="arrival",
        advice="Install the same distwatch on every host.",
    )


def _read_failure(raw: bytes) -> Failure:
    try:
        return read_failure(raw)
    except msgspec.DecodeError as error:
        raise unreadable(error) from error


def _error_of(failure: Failure) -> InitFailed:
    if failure.timed_out is None:
        return InitFailed(failure.message, step=failure.step, finding=failure.finding)
    told = failure.timed_out
    return InitTimeout(
        failure.message or f"{failure.step}: not done within {round(told.deadline_s, 1):g} s",
        step=failure.step,
        deadline_s=told.deadline_s,
        arrived=told.arrived,
        missing=told.missing,
        places=told.places,
        finding=failure.finding,
    )


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
