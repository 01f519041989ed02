"""Asks NCCL's RAS service of a job that seems to hang, twice and then less and less often.

One process answers for the whole job, also for ranks that run without distwatch or on other hosts. A job's
processes may share the port with another job's: an answer counts only if it names processes of this run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from distwatch.dumps.communicators import NotRas, bounded, read_communicators
from distwatch.observer.background import in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.rounds import Rounds
from distwatch.probes.ras import NoAnswer, ask_status, find_listeners
from distwatch.state.events import Communicator, CommunicatorsSeen
from distwatch.state.hardware_events import RAS

PAUSES_S = (5.0, 15.0, 30.0, 60.0)
"""Between the first two answers; and so on."""
_TRIES = 4
"""Connections: each may come to another process that shares the port, or to one that is stopped."""
_MOST_STILL = 65_536


class RasLooks:
    """One look at a time, in a thread of its own: a service that does not answer delays nobody."""

    def __init__(self, recording: Recording, on_news: Callable[[], None] = lambda: None) -> None:
        """`on_news` is called after each answer."""
        self._recording = recording
        self._on_news = on_news
        self._host = recording.header.host
        self._looking: asyncio.Task[None] | None = None
        self._rounds = Rounds(PAUSES_S)
        self._still: dict[str, tuple[object, int]] = {}
        """By communicator, its counts and since when they have been these."""

    def consider(self, why: str, pids: Iterable[int], *, on_nccl: bool) -> None:
        """Starts a look if one is due for that reason ('': nothing is suspicious). Never waits for it.

        Args:
            pids: the run's living ranks on this host.
            on_nccl: the job is known to use NCCL: that nobody answers is then told.
        """
        is_looking = self._looking is not None and not self._looking.done()
        if not self._rounds.are_due(why) or is_looking:
            return
        self._rounds.begin()
        self._looking = asyncio.create_task(self._look(tuple(pids), on_nccl))

    def close(self) -> None:
        """Cancels the look that is under way; nothing of it is recorded."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self, pids: tuple[int, ...], on_nccl: bool) -> None:
        try:
            seen = await in_background(_ask, self._host, pids, within_s=None)
        except NoAnswer as error:
            if on_nccl:
                self._recording.miss(RAS, str(error), once=True)
            return
        except Exception as error:
            self._recording.miss(RAS, f"{type(error).__name__}: {error}"[:300], once=True)
            return
        self._record(seen)
        self._on_news()

    def _record(self, seen: CommunicatorsSeen) -> None:
        now_ns = time.monotonic_ns()
        still: dict[str, tuple[object, int]] = {}
        timed: list[Communicator] = []
        for one in seen.communicators[:_MOST_STILL]:
            counts = (one.launched, tuple(sorted(one.others.items())), one.silent)
            before = self._still.get(one.name)
            since_ns = before[1] if before is not None and before[0] == counts else now_ns
            still[one.name] = (counts, since_ns)
            timed.append(msgspec.structs.replace(one, still_since_ns=since_ns))
        self._still = still
        whole = msgspec.structs.replace(seen, communicators=tuple(timed))
        kept = bounded(whole)
        self._recording.record(kept, keep=True)
        if len(kept.communicators) < len(seen.communicators):
            some = f"{len(kept.communicators)} of {len(seen.communicators)}"
            why = f"{some} communicators are kept, those whose counts differ first"
            self._recording.miss(f"{RAS}: communicators", why, once=True)


def _ask(host: str, pids: tuple[int, ...]) -> CommunicatorsSeen:
    """The first answer that is of this job; runs in a thread.

    Raises:
        NoAnswer: there is none.
    """
    why = NoAnswer("nobody was asked")
    asked = find_listeners(pids)
    for listener in (asked * _TRIES)[:_TRIES]:
        try:
            seen = read_communicators(host, ask_status(listener))
        except NoAnswer as error:
            why = error
            continue
        except NotRas as error:
            why = NoAnswer(f"what pid {listener.pid} answers cannot be read: {error}")
            continue
        if not listener.shared or {pid for _, pid in seen.processes} & set(pids):
            return seen
        why = NoAnswer(
            "another job shares the port of NCCL's RAS, and answered in place of this job"
        )
    raise why
