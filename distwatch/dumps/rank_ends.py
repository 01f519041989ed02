"""How ranks ended, by what launchers, kernels, their own tracebacks and their peers say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from distwatch.diagnosis.facts.communication import has_timed_out, is_communication_error
from distwatch.dumps.log.facts import (
    Ended,
    Fact,
    KernelKilled,
    LostPeer,
    Progressed,
    Raised,
    StuckIn,
    Who,
    Wrote,
)
from distwatch.dumps.log.roster import Roster
from distwatch.state import events as ev

_SECOND = 1_000_000_000
_SIGTERM = 15
_SIGKILL = 9
_AFTER_ALL_NS = 2 * _SECOND
_SILENT_AT_MOST = 0.5
Timed = tuple[int, ev.Event]
F = TypeVar("F", bound=Fact)


class RankEnds:
    """The ends of the newest start of a job."""

    def __init__(
        self,
        facts: Iterable[Fact],
        by_rank: Mapping[int, list[Fact]],
        roster: Roster,
        now_ns: int,
    ) -> None:
        self._by_rank = by_rank
        self._now_ns = now_ns
        self._ended = {rank: _of(Ended, found) for rank, found in by_rank.items()}
        self._raised = {rank: self._final(found) for rank, found in by_rank.items()}
        homeless = [fact for fact in facts if roster.rank_of(fact.who) is None]
        self._adopt_exceptions(_of(Raised, homeless))
        self._first_ns = self._first_loss()
        # A launcher kills what does not end on request, once another rank has failed.
        self._failed = any(self._own_failure(rank) for rank in by_rank)
        self._presumed = self._silently_gone()
        self._adopt_kills(_of(KernelKilled, facts), roster)

    def exceptions_of(self, rank: int) -> Iterator[Timed]:
        """The exception that ended it."""
        for raised in self._raised.get(rank, ())[:1]:
            yield raised.time_ns, uncaught(raised)

    def past_exceptions(self, facts: Iterable[Fact]) -> Iterator[Timed]:
        """Of an earlier start, which was over by then."""
        for raised in _of(Raised, facts)[:1]:
            yield raised.time_ns, uncaught(raised)

    def exit_of(self, rank: int, key: str) -> Iterator[Timed]:
        """Its end, where anything tells of it."""
        ends = self._ended.get(rank, [])
        if not ends:
            yield from self._presumed_exit(rank, key)
            return
        told = next((e for e in ends if e.exit_code is not None or e.signal is not None), ends[0])
        oom = next((end.oom for end in ends if end.oom), "")
        seen = ev.ExitSeen(
            process=key,
            exit_code=told.exit_code,
            signal=_SIGKILL if oom and told.signal is None else told.signal,
            how=told.how,
            oom_killed=oom or None,
        )
        yield self._end_ns(rank, told, bool(oom)), seen

    def _presumed_exit(self, rank: int, key: str) -> Iterator[Timed]:
        if raised := self._raised.get(rank):
            how = "its exception left the main thread"
            yield raised[0].time_ns, ev.ExitSeen(process=key, how=how)
        elif rank in self._presumed:
            how = "its peers lost their connection to it, and it wrote nothing after that"
            yield self._first_ns - 1, ev.ExitSeen(process=key, how=how)

    def _end_ns(self, rank: int, told: Ended, is_oom: bool) -> int:
        raised = self._raised.get(rank)
        if raised:
            return max(raised[0].time_ns, told.time_ns)
        if told.signal == _SIGTERM:
            # A launcher's request comes after what it reacts to, and its clock counts whole seconds.
            return max(told.time_ns, self._first_ns) + _AFTER_ALL_NS
        killed = told.signal == _SIGKILL and not self._failed
        if is_oom or killed or told.exit_code:
            # The peers' errors are its consequences, whichever line came first.
            return min(told.time_ns, self._first_ns - 1)
        return told.time_ns

    def _final(self, facts: list[Fact]) -> list[Raised]:
        """Exceptions that ended the rank, the first of all before those that only follow."""
        wrote = max((fact.time_ns for fact in _of(Wrote, facts)), default=0)
        failed = any(end.exit_code for end in _of(Ended, facts))
        found = [
            one for one in _of(Raised, facts) if one.uncaught or failed or one.time_ns >= wrote
        ]
        own = [one for one in found if not is_communication_error(one.type_name, one.message)]
        return [*own[-1:], *found] if own and own[-1] is found[-1] else found[-1:]

    def _adopt_exceptions(self, homeless: list[Raised]) -> None:
        """A traceback without a rank is of the rank that failed and has none."""
        failed = [
            rank
            for rank, ends in self._ended.items()
            if any(end.exit_code for end in ends) and not self._raised[rank]
        ]
        kinds = {one.type_name for one in homeless}
        if homeless and failed and (len(failed) == 1 or len(kinds) == 1):
            own = [o for o in homeless if not is_communication_error(o.type_name, o.message)]
            for rank in failed:
                self._raised[rank] = (own or homeless)[:1]

    def _adopt_kills(self, kills: list[KernelKilled], roster: Roster) -> None:
        # The sentence about the process says more than the table row before it.
        for kill in sorted(kills, key=lambda kill: "Killed process" not in kill.text):
            rank = roster.rank_of(Who(labels=(f"pid:{kill.pid}",)))
            if rank is None:
                # In a container the log's pid is another one than the kernel's.
                killed = [r for r, ends in self._ended.items() if _killed(ends)] or [
                    *self._presumed
                ]
                rank = killed[0] if len(killed) == 1 else None
            ends = self._ended.get(rank) if rank is not None else None
            if ends is not None and not any(end.oom for end in ends):
                how = "the kernel's log"
                ends.append(Ended(who=kill.who, time_ns=kill.time_ns, oom=kill.text, how=how))

    def _first_loss(self) -> int:
        losses = [
            fact.time_ns for found in self._by_rank.values() for fact in found if _is_loss(fact)
        ]
        return min(losses, default=self._now_ns)

    def _silently_gone(self) -> set[int]:
        """Ranks that others lost, and that say nothing of a loss themselves."""
        lost = {r for r, found in self._by_rank.items() if self._lost_a_peer(r, found)}
        if not lost or any(self._own_end(rank) for rank in self._by_rank):
            return set()
        silent = {
            rank
            for rank, found in self._by_rank.items()
            if rank not in lost
            and not self._ended[rank]
            and not any(isinstance(f, (StuckIn, Progressed, Raised)) for f in found)
        }
        return silent if len(silent) <= _SILENT_AT_MOST * len(self._by_rank) else set()

    def _lost_a_peer(self, rank: int, facts: list[Fact]) -> bool:
        """Whether it failed by a closed connection: such warnings also come when all end in good order."""
        failed = bool(self._raised[rank]) or any(e.exit_code or e.signal for e in self._ended[rank])
        return failed and any(map(_saw_a_close, facts))

    def _own_failure(self, rank: int) -> bool:
        own = [
            one
            for one in self._raised[rank]
            if not is_communication_error(one.type_name, one.message)
        ]
        return bool(own) or any(end.oom for end in self._ended[rank])

    def _own_end(self, rank: int) -> bool:
        ends = self._ended[rank]
        return self._own_failure(rank) or any(
            end.exit_code or end.signal not in (None, 6, 15) for end in ends
        )


def _of(kind: type[F], facts: Iterable[Fact]) -> list[F]:
    return [fact for fact in facts if isinstance(fact, kind)]


def _killed(ends: list[Ended]) -> bool:
    return any(end.signal == _SIGKILL for end in ends)


def _is_loss(fact: Fact) -> bool:
    if isinstance(fact, LostPeer):
        return True
    return isinstance(fact, Raised) and is_communication_error(fact.type_name, fact.message)


def _saw_a_close(fact: Fact) -> bool:
    """A timeout is no loss: who is awaited may be alive."""
    return _is_loss(fact) and not (isinstance(fact, Raised) and has_timed_out(fact.message))


def uncaught(raised: Raised) -> ev.ExceptionUncaught:
    """The event that the rank's own agent would have written."""
    site = ev.Site(file=raised.file, line=raised.line, function=raised.function)
    return ev.ExceptionUncaught(
        type_name=raised.type_name,
        message=raised.message,
        traceback=raised.traceback,
        site=site if raised.file else None,
    )
