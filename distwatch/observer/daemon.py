"""The observer of one run on one node: follows, probes, judges, records; ends by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from distwatch import __version__
from distwatch.diagnosis.facts.outside_view import largest_job, with_outside_view
from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.facts.suspicion import suspicion_of
from distwatch.observer.background import wait_for_any
from distwatch.observer.duty_cycle import DutyCycle
from distwatch.observer.journals.journal_intake import Intake
from distwatch.observer.journals.reading import Entry, attached_keys
from distwatch.observer.journals.recording import Recording, RecordSink
from distwatch.observer.journals.run_state import resume_state
from distwatch.observer.judging import Judge
from distwatch.observer.looks.cluster_looks import ClusterLooks
from distwatch.observer.looks.endpoint_monitor import EndpointMonitor
from distwatch.observer.looks.host_looks import HostLooks
from distwatch.observer.looks.inspection import Inspection
from distwatch.observer.looks.log_looks import LogLooks
from distwatch.observer.looks.looks_elsewhere import LooksElsewhere
from distwatch.observer.looks.nccl_looks import NcclLooks
from distwatch.observer.looks.rendezvous_looks import RendezvousLooks
from distwatch.observer.looks.tracking import Tracking
from distwatch.observer.responses.responses import Responses
from distwatch.probes.devices import Devices
from distwatch.probes.infiniband import Ports
from distwatch.runfolder import RunFolder, host_name
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, Record
from distwatch.state.reducer import reduce
from distwatch.state.verdict import ReportedStatus, Verdict

WATCHED_SHARE = 0.5
"""Of the patience after which a wait is suspicious: what the rank moves must be known by then."""
TICK_S = 0.5
SAMPLE_EVERY_S = 1.0
HOST_EVERY_S = 5.0
LINGER_S = 3.0
LAST_LOOK_WITHIN_S = 3.0  # a SIGTERM is usually followed by a SIGKILL soon
ANSWER_WITHIN_S = 1.5
OTHERS_WITHIN_S = 5.0
NOBODY_CAME_S = 60.0
APART_S = 0.5
"""After a turn longer than this, the report waits for the next turn."""

log = logging.getLogger("distwatch.observer")
Sink = Callable[[Entry], None]


class Others(Protocol):
    """The observers of other hosts, where this one is the root."""

    def holds_on(self) -> bool: ...
    def note_here(self) -> None: ...
    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]: ...
    def ask_to_end(self, order: ev.RankAborted) -> None: ...


class Observer:
    """Runs on one event loop. Viewers show `state` and `judge.findings`."""

    def __init__(self, folder: RunFolder, *, embedded: bool = False, writable: bool = True) -> None:
        self.folder = folder
        self.embedded = embedded
        self.state = resume_state(folder)
        self.sinks: list[Sink] = []
        self.record_sinks: list[RecordSink] = []
        self.others: Others | None = None
        self.viewers, self._finished = 0, False
        self.recording = Recording(folder, self.fold, self.hand_on, writable=writable)
        self.judge = Judge(folder, self.state, self.recording, writable=writable)
        over = [p.key for p in self.state.processes.values() if p.ended_ns is not None]
        self.tracking = Tracking(self.recording, over)
        outside = self.tracking.add_attached(attached_keys(folder)) or embedded
        self.inspection = Inspection(self.recording, self.tracking, self.state, embedded=outside)
        self.endpoints = EndpointMonitor(self.recording, self._judge_soon)
        self.cluster = ClusterLooks(self.recording, self.state, self._judge_soon)
        self.logs = LogLooks(self.recording, self._judge_soon)
        self.rendezvous = RendezvousLooks(self.recording, self._judge_soon)
        self.nccl = NcclLooks(self.recording, self.tracking, self.state, self._judge_soon)
        self._host_looks = HostLooks(self.recording, Devices(), Ports())
        self._intake = Intake(
            folder, self.recording, self.tracking, self.state, self.fold, self.hand_on,
            writable=writable,
        )  # fmt: skip
        self.act_on_incidents(None)
        self._host = host_name()
        self._began = self._last_alive = time.monotonic()
        self._due: dict[str, float] = {}
        self._stopping, self._woken = asyncio.Event(), asyncio.Event()
        self._elsewhere = LooksElsewhere(self._looked_elsewhere)
        self.duty = DutyCycle()
        self._keep_waits = self._is_pressed = self._verdict_due = False
        self.recording.record(
            ev.ObserverStarted(
                host=self._host, pid=os.getpid(), distwatch_version=__version__, embedded=embedded
            )
        )

    def act_on_incidents(self, environ: Mapping[str, str] | None) -> None:
        """From now on, incidents have consequences, as these settings say; None: it only looks."""
        sockets = self._intake.sockets
        self.responses = Responses(
            self.folder, self.state, self.recording, self.tracking, sockets, environ
        )

    async def run(self) -> str:
        """Observes until the run has ended or `stop` is called; returns why it ended."""
        reason = ""
        while not reason:
            try:
                is_rested = self.duty.is_rested(self.judge.has_passed_limit)
                self.tick(judging=self._keep_waits or is_rested)
            except Exception as error:
                self._failed(error)
            reason = self._reason_to_end()
            if not reason:
                await self._pause()
        await self.finish(reason)
        return reason

    def _failed(self, error: Exception) -> None:
        # A failure to judge or read must not end the observation of the ranks.
        why = f"{type(error).__name__}: {error}"[:300]
        if self.recording.miss("tick", why, once=True):
            log.error("a tick failed: %s", why, exc_info=error)

    def stop(self) -> None:
        """Asks the observer to end in an orderly way."""
        self._stopping.set()

    async def _pause(self) -> None:
        """Waits for the next tick; the end of a process or an inspection ends the wait at once."""
        loop = asyncio.get_running_loop()
        woken = self._woken
        woken.clear()
        watched = [t.watch.fileno() for t in self.tracking.living() if t.watch is not None]
        for descriptor in watched:
            loop.add_reader(descriptor, woken.set)
        try:
            await wait_for_any(woken, self._stopping, within_s=TICK_S)
        finally:
            for descriptor in watched:
                loop.remove_reader(descriptor)

    def tick(self, *, judging: bool = True) -> None:
        """One round of following, sampling and, if `judging`, judging."""
        self._take()
        ended = self.tracking.collect_ends()
        if ended:
            self._intake.take_last_words({tracked.key for tracked in ended})
            self.endpoints.look_again([tracked.key for tracked in ended], self.state)
            self.cluster.look_soon()
            self.nccl.look_soon()
        if self._is_due("sample", SAMPLE_EVERY_S):
            pressed = self._is_pressed or self.inspection.from_outside or self.judge.needs_flows
            # Asking very many ranks that all go on costs more than a sample.
            asked = not (pressed or self.judge.is_calm)
            closely = pressed or (asked and bool(self._suspicion(WATCHED_SHARE)))
            self.tracking.sample(closely=closely)
            self._intake.keep_pulses()
        if self._is_due("host", HOST_EVERY_S):
            self._host_looks.look()
        self.tracking.look_for_children()
        self.endpoints.consider(with_outside_view(self.state))
        self.rendezvous.consider(self.tracking.living())
        if self.inspection.from_outside:
            self.logs.consider(self.state)
        self.cluster.consider(
            [tracked.pid for tracked in self.tracking.living()], leaf=self.judge.of_one_host
        )
        self.recording.record(ev.Ticked(host=self._host))
        if judging:
            began = time.monotonic()
            if self._keep_waits:
                self._keep()
            elif self._is_pressed or self.inspection.from_outside or not self.judge.may_rest():
                self._search()
                self._judge()
            self.responses.consider(self.judge, self.others)
            burdened, at = self._elsewhere.pending, self.judge.changes_at
            self.duty.rest(began, pressed=self._is_pressed, burdened=burdened, changes_at=at)

    def _take(self) -> None:
        self._intake.take()
        if self.others is not None:
            self.others.note_here()

    def _search(self) -> None:
        """Looks for ranks without an agent while ranks are missing."""
        if self.tracking.is_search_due():
            job = self.judge.cases[0].job if self.judge.cases else largest_job(self.state)
            complete = job.world is not None and len(job.ranks) >= job.world
            identity = next((p.identity for p in job.ranks.values() if p.identity.endpoint), None)
            self.tracking.search(identity, complete)

    def agent_sockets(self) -> dict[str, str]:
        """The control sockets of the living agents, by process key."""
        return self._intake.sockets()

    async def dump(self, reason: str) -> str:
        """Writes a full incident now; returns its folder."""
        if self.inspection.running:
            await self.inspection.begin(reason, self._intake.sockets())
        elsewhere = self.others.ask_looks(reason, ask=True) if self.others else []
        await self.inspection.begin(reason, self._intake.sockets(), ask=True)
        if elsewhere:
            await asyncio.wait(elsewhere, timeout=OTHERS_WITHIN_S)
        self._take()
        self.recording.record(ev.Ticked(host=self._host))
        return self.judge.keep_on_demand()

    async def look(self, reason: str, *, ask: bool) -> None:
        """Takes a look for the root; when it returns, the results are in the journal."""
        self.tracking.watch_closely()
        elsewhere = self.others.ask_looks(reason, ask=ask) if self.others else []
        here = self.inspection.begin(reason, self._intake.sockets(), ask=ask)
        await asyncio.wait([here, *elsewhere])
        self._refresh()
        self.recording.write_pending()

    async def verdict(self) -> Verdict:
        """The verdict after a fresh look, for a waiting rank."""
        self._refresh()
        look = self.inspection.begin(
            "a rank asks why its world does not form", self._intake.sockets()
        )
        # The looks continue after that: the rank must not wait for a stack that never comes.
        await asyncio.gather(
            asyncio.wait([look], timeout=ANSWER_WITHIN_S),
            self.endpoints.look_now(self.state, ANSWER_WITHIN_S),
        )
        self._refresh()
        return Verdict(
            host=self._host,
            findings=tuple(self.judge.findings),
            rank_statuses=tuple(
                msgspec.convert(status, ReportedStatus, from_attributes=True)
                for status in rank_statuses(self.state)
            ),
        )

    async def finish(self, reason: str) -> None:
        """Takes the last look and the last verdict, and writes everything to disk; once."""
        if self._finished:
            return
        self._finished = True
        stale = self.judge.blocked and self.tracking.living() and not self.inspection.is_fresh
        if self.inspection.running or stale:
            look = self.inspection.begin("the observer ends", self._intake.sockets())
            await asyncio.wait([look], timeout=LAST_LOOK_WITHIN_S)
        await self.nccl.look_last(LAST_LOOK_WITHIN_S)
        await self.rendezvous.close()
        await self.logs.close()
        looks = (self.inspection, self.endpoints, self.cluster, self.nccl, self._host_looks)
        for each in looks:
            each.close()
        try:
            self._intake.take_last_words()
            self.recording.record(ev.Ticked(host=self._host), keep=True)
            if self.judge.judge() or self.judge.blocked:
                self.judge.keep()
        except Exception as error:
            self._failed(error)
        self._intake.flush()
        self.responses.consider(self.judge, self.others)
        self.recording.flush()
        await self.responses.finish(ended=not self.tracking.living())
        self.recording.record(ev.ObserverEnded(host=self._host, reason=reason))
        self.recording.flush()
        self.recording.close()
        self.tracking.close()
        self._intake.close()

    def _refresh(self) -> None:
        """Brings the verdict up to date, as far as possible."""
        try:
            self._take()
            self.recording.record(ev.Ticked(host=self._host))
            self._judge()
        except Exception as error:
            self._failed(error)

    def _judge(self) -> None:
        began = time.monotonic()
        changed = self.judge.judge()
        why = self._suspicion() or ("there is a verdict" if self.judge.blocked else "")
        self._is_pressed = bool(why)
        if not why and self.inspection.from_outside:
            why = "only stacks tell what was under way"
        if changed:
            self.inspection.again_soon()
            self._verdict_due = True
            if self.judge.needs_source and (reading := self.inspection.read_files()):
                reading.add_done_callback(lambda _: self._judge_soon())
        largest = next(iter(self.judge.cases), None)
        self.nccl.consider(why, largest, leaf=self.judge.of_one_host)
        sockets = self._intake.sockets() if why else {}
        look = None
        # The results of the last look at very many ranks are taken in first.
        if not self._elsewhere.pending:
            look = self.inspection.consider(why, sockets=sockets)
        if look is not None:
            look.add_done_callback(lambda _: self._woken.set())
            self._elsewhere.expect(self.others.ask_looks(why) if self.others else ())
            self._verdict_due = self._verdict_due or self.judge.blocked
        self._look_at_culprits(sockets)
        # A dead rank cannot be probed any more: a crash is reported at once, a hang with its stacks.
        waits = self.inspection.running and not self.judge.crashed
        # With very many ranks, links are served between the verdict and its report.
        takes_long = time.monotonic() - began > APART_S
        if self._verdict_due and not waits and not self.nccl.reads_abort:
            self._verdict_due = self.inspection.running
            self._keep_waits = takes_long
            (self.judge.tell if takes_long else self._keep)()
        elif changed and takes_long:
            self.judge.tell()  # their stacks come seconds later

    def _look_at_culprits(self, sockets: dict[str, str]) -> None:
        """What is not looked at in each round: stacks of late ranks that run, and C frames of those that block."""
        jobs = [case.job for case in self.judge.cases]
        late = self.inspection.look_at_late(self.judge.findings, jobs, sockets)
        if late is not None:
            late.add_done_callback(lambda _: self._woken.set())
        self.inspection.look_beside(jobs, self._intake.sockets)
        # C frames pause a rank for tenths of a second: nobody who only attaches has agreed to that.
        may_pause = not self.inspection.from_outside
        if may_pause and self.judge.blocked and not self.inspection.running:
            native = self.inspection.look_natively(self.judge.findings, jobs)
            if native is not None:
                native.add_done_callback(lambda _: self._judge_soon())

    def _keep(self) -> None:
        self._keep_waits = False
        self.judge.keep()
        if self.judge.blocked:
            self._intake.flush()

    def _suspicion(self, share: float = 1.0) -> str:
        largest = next(iter(self.judge.cases), None)
        return suspicion_of(largest.job, largest.groups, share) if largest else ""

    def _looked_elsewhere(self, is_last: bool) -> None:
        self._verdict_due = self._verdict_due or self.judge.blocked
        if is_last:
            self.duty.end_rest()
            self._woken.set()

    def _judge_soon(self) -> None:
        """A look has found something: it belongs in the current verdict, or leads to one."""
        self._verdict_due = self._verdict_due or self.judge.blocked
        self._woken.set()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_s
        return True

    def _reason_to_end(self) -> str:
        now = time.monotonic()
        if self._stopping.is_set():
            return "asked to end"
        holds = self.responses.holds_on() or (self.others is not None and self.others.holds_on())
        if self.tracking.living() or self.viewers or self.inspection.running or holds:
            self._last_alive = now
            return ""
        if not self.state.processes:  # nor of other hosts, where this one is the root
            return "no process came" if now - self._began > NOBODY_CAME_S else ""
        return "the run has ended" if now - self._last_alive > LINGER_S else ""

    def hand_on(self, header: FileHeader, record: Record) -> None:
        """Passes on a record that is on disk, of this host or of one that sends to this observer."""
        for sink in self.record_sinks:
            sink(header, record)

    def fold(
        self, header: FileHeader, seq: int, time_ns: int, event: ev.Event, payload: bytes = b""
    ) -> None:
        """Folds an event of any host into the state, and passes it on to the viewers.

        Args:
            payload: the same event as bytes, where it arrived so.
        """
        reduce(self.state, header, seq, time_ns, event)
        self.judge.note(event)
        entry = Entry(header, seq, time_ns, event, payload)
        for sink in list(self.sinks):
            sink(entry)
