"""Watches rendezvous endpoints while some ranks are still on their way to them.

An endpoint is probed when there may be news (half a second after a rank began, when a rank has
failed, just before a deadline, when the store's host has ended), and less and less often in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec

from distwatch.diagnosis.facts.initializations import holds_world, newest_init
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.probes.endpoint import Resolved, probe_endpoint, resolve
from distwatch.probes.store_keys import Expected
from distwatch.runfolder import host_name
from distwatch.state import events as ev
from distwatch.state.addresses import split_endpoint
from distwatch.state.model import Process, RunState

FIRST_AFTER_S = 0.5
SOON_S, SOON_UNTIL_S = 2.0, 20.0
RARELY_S = 10.0
LEAST_S = 1.0
FAILED_FOR_S = 30.0
"""A failed rank that lives on has given up, or tries again and is on its way once more."""
BEFORE_DEADLINE_S = 1.0
RESOLVED_WITHIN_S = 2.0
LOOK_WITHIN_S = 12.0
_FORGOTTEN_S = 120.0
_NETWORKED = ("env", "tcp", "store")


class _Watched(msgspec.Struct):
    """One endpoint. Times are of CLOCK_MONOTONIC."""

    begun_ns: int = 0
    """When the newest look began."""
    last: ev.EndpointProbed | None = None
    said_ns: int = 0
    looking: asyncio.Task[None] | None = None
    lookup: asyncio.Task[Resolved] | None = None
    """At most one question at a time to a name server that does not answer."""


class EndpointMonitor:
    """Probes each endpoint at which ranks of this host wait, once for all of them."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called when a look finds something new."""
        self._recording = recording
        self._on_news = on_news
        self._host = host_name()
        self._watched: dict[str, _Watched] = {}
        self._asked: set[str] = set()
        self._known = 0
        self._keys: list[str] = []

    def consider(self, state: RunState) -> None:
        """Starts the looks that are due. Never waits for one."""
        now_ns = time.monotonic_ns()
        waiting = self._waiting(state, now_ns)
        for endpoint in set(self._watched) - set(waiting) - self._asked:
            if self._watched[endpoint].looking is None:
                self._drop(endpoint)
        for endpoint in (*waiting, *(self._asked - set(waiting))):
            watched = self._watched.setdefault(endpoint, _Watched())
            due = endpoint in self._asked or _is_due(watched.begun_ns, waiting[endpoint], now_ns)
            if due and watched.looking is None:
                self._asked.discard(endpoint)
                watched.begun_ns = now_ns
                self._begin(endpoint, watched, state)

    def look_again(self, ended: Iterable[str], state: RunState) -> None:
        """Probes again the endpoints of processes that have ended: another process may answer there now."""
        for key in ended:
            process = state.processes.get(key)
            if process is not None:
                self._asked.update(self._left_behind(process, state))

    async def look_now(self, state: RunState, within_s: float) -> None:
        """Probes every endpoint at which a rank waits; returns after `within_s` at most."""
        self._asked.update(self._waiting(state, time.monotonic_ns()))
        self.consider(state)
        looks = [w.looking for w in self._watched.values() if w.looking is not None]
        if looks:
            await asyncio.wait(looks, timeout=within_s)

    def close(self) -> None:
        """Cancels all looks; nothing of them is recorded."""
        self._asked.clear()
        for endpoint in list(self._watched):
            self._drop(endpoint)

    def _drop(self, endpoint: str) -> None:
        watched = self._watched.pop(endpoint)
        for task in (watched.looking, watched.lookup):
            if task is not None:
                task.cancel()

    def _waiting(self, state: RunState, now_ns: int) -> dict[str, list[Process]]:
        found: dict[str, list[Process]] = {}
        for process in self._own(state):
            if process.ended_ns is not None:
                continue
            endpoint = self._place_of(process)
            if endpoint and is_on_its_way(process, now_ns):
                found.setdefault(endpoint, []).append(process)
        return found

    def _own(self, state: RunState) -> list[Process]:
        """The processes of this host: those of very many others are not gone through again, as none is ever dropped."""
        if self._known != len(state.processes):
            self._known = len(state.processes)
            self._keys = [key for key in state.processes if key.startswith(self._host)]
        return [state.processes[key] for key in self._keys]

    def _place_of(self, process: Process) -> str:
        """The network endpoint at which a process of this host meets the others; '' where there is none."""
        planned = process.planned
        if planned is None or planned.method not in _NETWORKED or process.host != self._host:
            return ""
        return planned.endpoint if split_endpoint(planned.endpoint) else ""

    def _left_behind(self, process: Process, state: RunState) -> Iterator[str]:
        """The endpoints that an ended process hosted for others, or at which it waited itself."""
        endpoint = self._place_of(process)
        living = [p for p in state.processes.values() if p.ended_ns is None]
        if endpoint and process.planned is not None:
            hosted = process.planned.hosts_store and any(
                self._place_of(other) == endpoint for other in living
            )
            if hosted or is_on_its_way(process, process.ended_ns or 0):
                yield endpoint
        elif process.role == "launcher" and process.host == self._host:
            for other in living:
                if other.ppid == process.pid and other.identity.agent_store:
                    yield from filter(None, (self._place_of(other),))

    def _begin(self, endpoint: str, watched: _Watched, state: RunState) -> None:
        living = [
            process
            for process in state.processes.values()
            if process.ended_ns is None and process.host == self._host
        ]
        ranks = [process for process in living if self._place_of(process) == endpoint]
        look = self._look(endpoint, watched, ranks, likely=_likely_hosts(ranks, living))
        watched.looking = asyncio.create_task(look)

    async def _look(
        self, endpoint: str, watched: _Watched, ranks: list[Process], likely: list[int]
    ) -> None:
        try:
            probed = await self._probe(endpoint, watched, ranks, likely)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:300]
            self._recording.miss(f"endpoint {endpoint}", why, once=True)
        else:
            self._record(watched, probed)
        finally:
            watched.looking = None

    async def _probe(
        self, endpoint: str, watched: _Watched, ranks: list[Process], likely: list[int]
    ) -> ev.EndpointProbed:
        host_name, port = split_endpoint(endpoint) or ("", 0)
        resolved = await _resolved(watched, host_name, port)
        if resolved is None:
            why = f"the name server did not resolve {host_name!r} within {RESOLVED_WITHIN_S:g} s"
            return self._unanswered(endpoint, why)
        probe = partial(
            probe_endpoint,
            endpoint,
            (host_name, port),
            resolved=resolved,
            expected=_expected(ranks),
            ranks=[process.pid for process in ranks],
            likely=likely,
        )
        try:
            return await in_background(probe, within_s=LOOK_WITHIN_S)
        except asyncio.TimeoutError:
            why = f"probing it took more than {LOOK_WITHIN_S:g} s"
            return self._unanswered(endpoint, why)

    def _unanswered(self, endpoint: str, why: str) -> ev.EndpointProbed:
        return ev.EndpointProbed(host=self._host, endpoint=endpoint, outcome="error", detail=why)

    def _record(self, watched: _Watched, probed: ev.EndpointProbed) -> None:
        now_ns = time.monotonic_ns()
        # A store that still answers is recorded again from time to time, so that its loss is seen.
        stale = probed.outcome == "store" and now_ns - watched.said_ns >= RARELY_S * 0.95e9
        news = probed != watched.last
        if news or stale:
            watched.last, watched.said_ns = probed, now_ns
            self._recording.record(probed)
        if news:
            self._on_news()


async def _resolved(watched: _Watched, host_name: str, port: int) -> Resolved | None:
    """The addresses of a name; None where they are not known in time."""
    if watched.lookup is None:
        watched.lookup = asyncio.create_task(
            in_background(resolve, host_name, port, within_s=_FORGOTTEN_S)
        )
    lookup = watched.lookup
    done, _ = await asyncio.wait({lookup}, timeout=RESOLVED_WITHIN_S)
    if not done:
        return None
    watched.lookup = None
    try:
        return lookup.result()
    except asyncio.TimeoutError:
        return None


def is_on_its_way(process: Process, now_ns: int) -> bool:
    """Whether a rank is initializing, or has just failed to."""
    if process.initialized:
        return False
    step = newest_init(process)
    if step is None or holds_world(process):
        return False
    if step.ended_ns is None:
        return True
    return bool(step.error) and now_ns - step.ended_ns < FAILED_FOR_S * 1e9


def _is_due(begun_ns: int, ranks: list[Process], now_ns: int) -> bool:
    """Whether there may be news since the newest look, or enough time has passed."""
    inits = [step for process in ranks if (step := newest_init(process)) is not None]
    moments = [step.started_ns + FIRST_AFTER_S * 1e9 for step in inits]
    moments += [step.ended_ns for step in inits if step.ended_ns is not None]
    # Just before the deadlines, so that a rank named as missing was still missing a moment ago.
    moments += [
        step.started_ns + (step.deadline_s - BEFORE_DEADLINE_S) * 1e9
        for process in ranks
        for step in process.open_steps()
        if step.deadline_s is not None
    ]
    if any(begun_ns < moment <= now_ns for moment in moments):
        # A rank that keeps failing and trying again is no reason to probe all the time.
        return now_ns - begun_ns >= LEAST_S * 1e9
    newest_ns = max((step.ended_ns or step.started_ns for step in inits), default=now_ns)
    soon = now_ns - newest_ns < SOON_UNTIL_S * 1e9
    return begun_ns > 0 and now_ns - begun_ns >= (SOON_S if soon else RARELY_S) * 1e9


def _likely_hosts(ranks: list[Process], living: list[Process]) -> list[int]:
    """The processes that should listen there: the rank that hosts the store, or the ranks' launcher."""
    hosts = [rank.pid for rank in ranks if rank.planned is not None and rank.planned.hosts_store]
    return hosts + [process.pid for process in living if process.role == "launcher"]


def _expected(ranks: list[Process]) -> Expected | None:
    """The world that is to form there: the newest one, where an earlier one has not quite ended."""
    newest = max(
        (rank for rank in ranks if rank.planned is not None),
        key=lambda rank: (rank.identity.restart, rank.planned.number if rank.planned else 0),
        default=None,
    )
    if newest is None or newest.planned is None:
        return None
    return Expected(
        world_size=newest.planned.world_size,
        attempt=newest.identity.restart,
        number=newest.planned.number,
        own_store=newest.planned.method == "store",
        kept_store=newest.identity.agent_store,
    )
