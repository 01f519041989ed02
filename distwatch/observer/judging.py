"""Turns the state into verdicts, and verdicts that block a job into incidents."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator

from distwatch.diagnosis.facts.calm import CalmRun, calm_run
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.suspicion import Limit, next_limits
from distwatch.diagnosis.facts.unnumbered_calls import has_unrecorded_groups
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose, rechecks
from distwatch.diagnosis.verdict.probe_requests import late_ranks
from distwatch.garbage import without_collections
from distwatch.observer.incidents import next_incident, write_incident
from distwatch.observer.journals.reading import ROUTINE
from distwatch.observer.journals.recording import Recording
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.codes import code_of
from distwatch.state.finding import Finding
from distwatch.state.model import RunState

Roots = frozenset[tuple[str, tuple[int, ...]]]
"""Code and culprits of each root that blocks the job."""
LONG_S = 0.05
"""A judgement that is shorter is made each time."""
RECHECK_S = 0.03
"""How long checks are run again in one round: all of 10,000 ranks' take some ten rounds."""
WHOLE_EVERY_S = 60.0
SUSPECTS_MOST = 64
log = logging.getLogger("distwatch.observer")


class Judge:
    """Keeps the current verdict. The same roots are the same incident, with better and better evidence.

    Attributes:
        of_one_host: another observer judges the whole run.
        cases: what the findings were derived from; the state has moved on since.
        changes_at: when the passing of time alone may change the findings (of `time.monotonic`).
    """

    def __init__(
        self, folder: RunFolder, state: RunState, recording: Recording, *, writable: bool = True
    ) -> None:
        self._folder = folder
        self._writable = writable
        self._last_failure = ""
        self._state = state
        self._recording = recording
        self._roots: Roots = frozenset()
        self._number: int | None = None
        self._is_complete = False
        """Whether the incident of that number is on disk."""
        self.findings: list[Finding] = []
        self.cases: list[Case] = []
        self.path = ""
        self.of_one_host = False
        self._calm: CalmRun | None = None
        self._rechecks: Iterator[bool] = iter(())
        self._has_news = True
        self._whole_at = 0.0
        self.changes_at = math.inf
        self._limits: dict[str, Limit] = {}
        # An observer that replaces another one continues that one's incident.
        own = state.judged is not None and state.judged.host == recording.header.host
        if own and state.judged is not None and state.judged.incident is not None:
            self._roots = _roots_of(state.judged.findings)
            self._number = state.judged.incident
            self._is_complete = True

    def judge(self) -> bool:
        """Derives the findings again; returns whether the verdict's roots changed."""
        began = time.monotonic()
        self._has_news = False
        with without_collections():
            self.cases = cases_of(self._state)
            self.findings = diagnose(self.cases)
        done = time.monotonic()
        limits = [pair for case in self.cases for pair in next_limits(case.job).items()]
        # Of a host with ranks of several worlds, the nearest one comes last and stays.
        self._limits = dict(sorted(limits, key=lambda pair: -pair[1].in_s))
        self.changes_at = began + min((at.in_s for _, at in limits), default=math.inf)
        self._whole_at = done + WHOLE_EVERY_S
        self._calm = calm_run(self.cases, self.findings) if done - began > LONG_S else None
        self._rechecks = rechecks(self.cases[0])
        roots = _roots_of(self.findings)
        if roots == self._roots:
            return False
        # More evidence for the same problem, or a better name for it, is not a second incident.
        if roots and not _share_a_culprit(roots, self._roots):
            self._number, self._is_complete = None, False
        self._roots = roots
        return True

    def has_passed_limit(self) -> bool:
        """Whether news has come since by which a wait is suspicious or overdue that was not before."""
        hosts = self._state.hosts
        return any(hosts[h].now_ns > at.at_ns for h, at in self._limits.items() if h in hosts)

    def suspects(self) -> tuple[str, ...]:
        """The processes, by key, that the verdict blames for a hang or a crash."""
        ranks = {rank for f in self.findings if f.blocks for rank in f.culprit_ranks}
        jobs = [case.job for case in self.cases]
        blamed = [job.ranks[rank].key for job in jobs for rank in sorted(ranks & job.ranks.keys())]
        return tuple(blamed[:SUSPECTS_MOST])

    def note(self, event: ev.Event) -> None:
        """Is told of each event that was folded."""
        self._has_news = self._has_news or type(event) not in ROUTINE

    def may_rest(self) -> bool:
        """Whether judging again would find nothing, as it did before: very many ranks, and all go on.

        For what no pulse shows, such as a device or the mere passing of time, each round runs some of the
        checks again; once one finds anything, the whole is judged. It is every WHOLE_EVERY_S in any case.
        """
        if self._calm is None or self._has_news or time.monotonic() > self._whole_at:
            return False
        # Whatever ends the rest ends it until the whole was judged.
        self._has_news = not self._calm.goes_on() or self._recheck_finds()
        return not self._has_news

    @property
    def is_calm(self) -> bool:
        """Whether the newest judgement found that very many ranks go on, and nothing has ended that."""
        return self._calm is not None and not self._has_news

    def _recheck_finds(self) -> bool:
        until = time.monotonic() + RECHECK_S
        for finds in self._rechecks:
            if finds or time.monotonic() >= until:
                return finds
        self._rechecks = rechecks(self.cases[0])
        return False

    @property
    def blocked(self) -> bool:
        """Whether the verdict is a hang or a crash."""
        return bool(self._roots)

    @property
    def needs_source(self) -> bool:
        """Whether the ranks' source may show why."""
        return self.blocked or any(code_of(one.code).lies_in_code for one in self.findings)

    @property
    def needs_flows(self) -> bool:
        """Whether what ranks move matters even where nobody is known to wait.

        A rank that is called slow may stop then, and a call that nothing counts shows only as a rank that sleeps.
        """
        return bool(late_ranks(self.findings)) or any(
            has_unrecorded_groups(case.job) for case in self.cases
        )

    @property
    def incident(self) -> int | None:
        """The number of the current incident once all of it is on disk."""
        return self._number if self.blocked and self._is_complete else None

    @property
    def crashed(self) -> bool:
        """Whether the first root is a crash, not a hang."""
        return bool(self.findings) and self.findings[0].severity == "crash"

    def keep(self) -> str:
        """Records the verdict and writes its incident; returns the incident's folder, '' for none."""
        self._recording.write_pending()
        if self.blocked and self._writable:
            self._write()
        self._record(self._number if self.blocked else None)
        self._recording.flush()
        return self.path if self.blocked else ""

    def tell(self) -> None:
        """Records the verdict before its incident: of very many ranks, that takes seconds to write."""
        self._record(self.incident)

    def _record(self, incident: int | None) -> None:
        self._recording.record(
            ev.FindingsJudged(
                host=self._recording.header.host,
                findings=tuple(self.findings),
                incident=incident,
                of_one_host=self.of_one_host,
            )
        )

    def keep_on_demand(self) -> str:
        """Writes an incident even if nothing blocks: somebody asked for one."""
        self.judge()
        if not self._writable:
            return ""
        self._write()
        return self.path

    def _write(self) -> None:
        try:
            self._number = self._number or next_incident(self._folder)
            self.path = write_incident(
                self._folder, self._state, self.findings, self._number, self.cases
            )
            self._is_complete = True
        except Exception as error:
            # A failing report must not keep the verdict itself out of the journal.
            reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
            why = f"not written: {reason[:300]}"
            if self._last_failure != why:
                self._last_failure = why
                log.warning("incident %s", why, exc_info=True)
                self._recording.miss("incident", why)


def _share_a_culprit(roots: Roots, before: Roots) -> bool:
    blamed = {rank for _, culprits in before for rank in culprits}
    return bool(roots & before) or any(blamed & set(culprits) for _, culprits in roots)


def _roots_of(findings: Iterable[Finding]) -> Roots:
    return frozenset((f.code, f.culprit_ranks) for f in findings if f.role == "root" and f.blocks)
