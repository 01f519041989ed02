"""Watches the place where ranks are to meet, while some of them are still on the way."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from distwatch.agent.plan import split_endpoint
from distwatch.diagnosis.initializations import holds_world, newest_init
from distwatch.observer.background import in_background
from distwatch.observer.recording import Recording
from distwatch.probes.endpoint import probe_endpoint
from distwatch.state import events as ev
from distwatch.state.model import Process, RunState

FIRST_AFTER_S = 0.5
SOON_S, SOON_UNTIL_S = 2.0, 20.0
RARELY_S = 10.0
LOOK_WITHIN_S = 8.0


class _Watched(msgspec.Struct):
    since: float
    due: float
    last: ev.EndpointProbed | None = None
    said: float = 0.0
    looking: asyncio.Task[None] | None = None


class MeetingPlaces:
    """Probes each endpoint that a rank waits at: soon, and then ever more rarely."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._host = os.uname().nodename
        self._watched: dict[str, _Watched] = {}

    def consider(self, state: RunState) -> None:
        """Begins the looks that are due. Never waits for one."""
        now = time.monotonic()
        waiting = {
            planned.endpoint: process
            for process in state.processes.values()
            if process.host == self._host
            and (planned := process.planned) is not None
            and planned.method in ("env", "tcp", "store")
            and is_on_its_way(process)
        }
        for endpoint in set(self._watched) - set(waiting):
            if self._watched[endpoint].looking is None:
                del self._watched[endpoint]
        for endpoint, process in waiting.items():
            watched = self._watched.setdefault(
                endpoint, _Watched(since=now, due=now + FIRST_AFTER_S)
            )
            if now >= watched.due and watched.looking is None:
                watched.due = now + (SOON_S if now - watched.since < SOON_UNTIL_S else RARELY_S)
                self._begin(endpoint, process.pid if process.ended_ns is None else None)

    def look_again(self) -> None:
        """Something has ended: what listens now may be another."""
        for watched in self._watched.values():
            watched.due = 0.0

    async def look_now(self, state: RunState, within_s: float) -> None:
        """Looks at every place that somebody waits at, for as long at most."""
        self.consider(state)
        self.look_again()
        self.consider(state)
        looks = [w.looking for w in self._watched.values() if w.looking is not None]
        if looks:
            await asyncio.wait(looks, timeout=within_s)

    def _begin(self, endpoint: str, pid: int | None) -> None:
        address = split_endpoint(endpoint)
        if address is not None:
            watched = self._watched[endpoint]
            watched.looking = asyncio.create_task(self._look(watched, *address, pid))

    async def _look(self, watched: _Watched, host_name: str, port: int, pid: int | None) -> None:
        try:
            probed = await in_background(
                lambda: probe_endpoint(host_name, port, network_of=pid), within_s=LOOK_WITHIN_S
            )
        except asyncio.TimeoutError:
            probed = _not_answered(self._host, host_name, port)
        finally:
            watched.looking = None
        now = time.monotonic()
        fresh = probed.outcome == "store" and now - watched.said > RARELY_S
        if probed != watched.last or fresh:
            watched.last, watched.said = probed, now
            self._recording.record(probed)


def _not_answered(here: str, host_name: str, port: int) -> ev.EndpointProbed:
    return ev.EndpointProbed(
        host=here,
        endpoint=f"{host_name}:{port}",
        outcome="no_answer",
        detail=f"looking it up and connecting took more than {LOOK_WITHIN_S:.0f} s",
    )


def is_on_its_way(process: Process) -> bool:
    """Whether a rank is in its initialization, or has failed in it."""
    step = newest_init(process)
    return (
        step is not None
        and not holds_world(process)
        and (step.ended_ns is None or bool(step.error))
    )
