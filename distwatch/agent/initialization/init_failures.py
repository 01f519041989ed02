"""The errors of a failing initialization: who arrived, who did not, where they are, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from distwatch.agent.core import Agent
from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.arrival import Arrival
from distwatch.agent.initialization.arrival_messages import Whereabouts
from distwatch.agent.initialization.environment import Launched
from distwatch.agent.initialization.missing_ranks import (
    ASK_WITHIN_S,
    ask_verdict,
    explaining,
    finding_of_absence,
    look_for,
    nearest,
)
from distwatch.agent.initialization.steps import Ledger
from distwatch.agent.initialization.store_connect import (
    not_hosted,
    not_reached,
)
from distwatch.errors import InitFailed, InitTimeout, not_done
from distwatch.state.codes import Situation, code_of
from distwatch.state.finding import Finding
from distwatch.state.group_creation import Creation, CreationProgress, incomplete_creation
from distwatch.state.rank_sets import format_ranks
from distwatch.state.verdict import Verdict
from distwatch.tcpstore import StoreUnreachable
from distwatch.visible_text import say

REMIND_EVERY_S = 10.0
ASK_RAY_EVERY_S = 2.0
_LISTED = 8
_UNDECIDED = (
    "every rank that distwatch sees has entered the same groups, and torch has not formed them"
)


class InitFailures:
    """Creates the errors of one initialization. The observer's finding comes first, if there is one."""

    def __init__(self, launched: Launched, agent: Agent | None, ledger: Ledger) -> None:
        self._launched = launched
        self._agent = agent
        self._ledger = ledger
        self._reminded = self._asked_ray = time.monotonic()
        self._last_words = ""

    def late(self, arrival: Arrival, step: str, within_s: float) -> InitFailed:
        """A deadline has passed: which ranks are missing, and where each host sees them."""
        # The observer judges from the journal, so the step must have failed there first.
        self._ledger.give_up(_timeout(step, within_s))
        try:
            timed_out, views = arrival.collect_missing(step, within_s)
            error = self._absent(step, within_s, timed_out.missing, timed_out.arrived, views)
            arrival.conclude(error)
        except InitFailed as failure:
            return failure
        except OSError as lost:
            return self.store_lost(step, lost)
        return error

    def creation_late(
        self,
        arrival: Arrival,
        within_s: float,
        arrived_within_s: float,
        without: tuple[int, ...],
        watch: Callable[[], None],
    ) -> InitFailed:
        """The framework's groups are not there in time: who has not entered which group's creation.

        Args:
            arrived_within_s: the deadline of the arrival, where ranks have not even arrived.
            without: ranks that build them without telling us how far they are.
            watch: tells the other ranks how far this one is.
        """
        step = st.FRAMEWORK
        self._ledger.give_up(_timeout(step, within_s))
        try:
            watch()
            if set(arrival.sweep()) - set(without):
                return self.late(arrival, st.JOINING, arrived_within_s)
            progress = arrival.progress(without)
            creation = incomplete_creation(progress, self._world)
            absent = creation.absent if creation else ()
            _, views = arrival.collect_missing(step, within_s, absent)
            error = self._not_created(within_s, creation, progress, views)
            arrival.conclude(error)
        except InitFailed as failure:
            return failure
        except OSError as lost:
            return self.store_lost(step, lost)
        return error

    def _not_created(
        self,
        within_s: float,
        creation: Creation | None,
        progress: Mapping[int, CreationProgress],
        views: Mapping[int, list[Whereabouts]],
    ) -> InitTimeout:
        absent = creation.absent if creation else ()
        waiting = tuple(rank for rank, one in sorted(progress.items()) if one.inside)
        finding = explaining(self._verdict(), absent or None)
        missing = absent or (finding.culprit_ranks if finding else ())
        places = {
            rank: nearest(views.get(rank) or self.look_for((rank,)).values()) for rank in missing
        }
        where = _told(places)
        if creation is not None:
            told = f"{creation.sentence()}. {where}"
            finding = finding or creation.finding(waiting, where)
        else:
            told = finding.summary if finding else _UNDECIDED
        return InitTimeout(
            f"{not_done(st.FRAMEWORK, within_s)}: {told}",
            step=st.FRAMEWORK,
            deadline_s=within_s,
            arrived=tuple(rank for rank in waiting if rank not in missing),
            missing=missing,
            places={rank: place.text for rank, place in places.items()},
            finding=finding,
        )

    def absent(
        self, step: str, within_s: float, missing: tuple[int, ...], arrived: tuple[int, ...]
    ) -> InitTimeout:
        """Ranks did not arrive, and only this host can be asked."""
        self._ledger.give_up(_timeout(step, within_s))
        views = {rank: [place] for rank, place in self.look_for(missing).items()}
        return self._absent(step, within_s, missing, arrived, views)

    def look_for(self, missing: tuple[int, ...]) -> dict[int, Whereabouts]:
        """Where missing ranks are, as seen from this host."""
        return look_for(missing, self._agent.folder if self._agent else None)

    def _absent(
        self,
        step: str,
        within_s: float,
        missing: tuple[int, ...],
        arrived: tuple[int, ...],
        views: Mapping[int, list[Whereabouts]],
    ) -> InitTimeout:
        places = {rank: nearest(views.get(rank, ())) for rank in missing}
        # Ranks that call torch directly do not report themselves here, but wait for the missing ones too.
        here = {rank for rank, place in places.items() if place.status == "here"}
        if len(here) < len(missing):
            arrived = tuple(sorted({*arrived, *here}))
            missing = tuple(rank for rank in missing if rank not in here)
            places = {rank: places[rank] for rank in missing}
        finding = explaining(self._verdict(), missing)
        if finding is None and missing:
            finding = finding_of_absence(missing, arrived, self._world, places, within_s)
        message = (
            f"{not_done(step, within_s)}; arrived: {_ranks(arrived)}; missing: {_ranks(missing)}"
        )
        where = _told(places)
        return InitTimeout(
            f"{message}. {where}" if where else message,
            step=step,
            deadline_s=within_s,
            arrived=arrived,
            missing=missing,
            places={rank: place.text for rank, place in places.items()},
            finding=finding,
        )

    def not_reached(self, error: StoreUnreachable, within_s: float) -> InitFailed:
        """The store cannot be reached from here."""
        self._ledger.give_up(InitFailed(error.detail, step=st.ENDPOINT))
        finding = self._judged("unmet") or not_reached(self._launched, error)
        if error.outcome in ("foreign", "silent"):
            return InitFailed(finding.summary, step=st.ENDPOINT, finding=finding)
        return InitTimeout(
            finding.summary,
            step=st.ENDPOINT,
            deadline_s=within_s,
            arrived=(self._launched.global_rank or 0,),
            finding=finding,
        )

    def not_hosted(self, error: Exception) -> InitFailed:
        """This rank cannot host the store."""
        self._ledger.give_up(error)
        finding = self._judged("unhosted") or not_hosted(self._launched, str(error))
        return InitFailed(finding.summary, step=st.STORE, finding=finding)

    def store_lost(self, step: str, error: Exception) -> InitFailed:
        """The store answered before, and no longer does."""
        self._ledger.give_up(error)
        hosted_by_rank = self._launched.store_host == "rank 0"
        finding = self._judged("lost") or Finding(
            code="rendezvous.store_lost",
            severity="crash",
            culprit_ranks=(0,) if hosted_by_rank else (),
            waiting_ranks=(self._launched.global_rank or 0,),
            summary=f"the store at {self._launched.endpoint}, which {self._launched.store_host} hosts, "
            f"is gone or frozen: {error}",
            advice=f"Find out what ended or stopped {self._launched.store_host}; the other ranks only lost the store.",
            confidence=0.7,
        )
        return InitFailed(finding.summary, step=step, finding=finding)

    def torch_failed(self, step: str, error: Exception, arrival: Arrival | None) -> InitFailed:
        """torch itself raised: the known cause, else torch's own message."""
        self._ledger.give_up(error)
        if arrival is not None:
            try:
                arrival.look()
            except InitFailed as failure:
                return failure
            except OSError as lost:
                return self.store_lost(step, lost)
        finding = explaining(self._verdict())
        words = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return InitFailed(
            f"{step} failed: {finding.summary if finding else words}",
            step=step,
            finding=finding,
        )

    def remind(self) -> None:
        """Prints the observer's reason, once, while the other ranks wait."""
        now = time.monotonic()
        if now - self._reminded < REMIND_EVERY_S:
            return
        self._reminded = now
        finding = explaining(self._verdict())
        if finding is not None and finding.summary != self._last_words:
            self._last_words = finding.summary
            say(f"{finding.summary}. {finding.advice}")

    def raise_if_hopeless(self, step: str) -> None:
        """Asks the observer, now and then, whether Ray has given up an actor that is still to come.

        Only Ray says that for good: the processes of other launchers may be started again.

        Raises:
            InitFailed: a rank's actor is dead and will not be restarted; with the finding.
        """
        now = time.monotonic()
        if self._launched.launcher != "ray" or now - self._asked_ray < ASK_RAY_EVERY_S:
            return
        self._asked_ray = now
        finding = explaining(self._verdict())
        if finding is not None and finding.code == "rendezvous.rank_died" and _is_final(finding):
            raise InitFailed(finding.summary, step=step, finding=finding)

    @property
    def _world(self) -> int:
        return self._launched.world_size or 1

    def _judged(self, situation: Situation) -> Finding | None:
        """The observer's finding that explains what this rank sees of the store."""
        verdict = self._verdict()
        findings = verdict.findings if verdict else ()
        return next((f for f in findings if situation in code_of(f.code).explains_store), None)

    def _verdict(self) -> Verdict | None:
        return ask_verdict(self._agent.folder, ASK_WITHIN_S) if self._agent else None


def _is_final(finding: Finding) -> bool:
    told = [evidence.text for evidence in finding.evidence if evidence.source == "exit"]
    return any(text.startswith("Ray: ") and " is dead (" in text for text in told)


def _timeout(step: str, within_s: float) -> InitTimeout:
    return InitTimeout(not_done(step, within_s), step=step, deadline_s=within_s)


def _told(places: Mapping[int, Whereabouts]) -> str:
    told = [f"rank {rank}: {place.text}" for rank, place in list(places.items())[:_LISTED]]
    more = [f"and {len(places) - _LISTED} more"] if len(places) > _LISTED else []
    return "; ".join(told + more)


def _ranks(ranks: tuple[int, ...]) -> str:
    return format_ranks(ranks) or "none known"
