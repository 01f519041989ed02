"""One meeting of a world's ranks in its store, under deadlines: they arrive, compare plans, and build groups."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from distwatch.agent.core import Agent
from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.arrival import Arrival, Late, unreadable
from distwatch.agent.initialization.arrival_messages import Arrived
from distwatch.agent.initialization.environment import Launched
from distwatch.agent.initialization.init_failures import InitFailures
from distwatch.agent.initialization.key_value_store import (
    FileKeyValues,
    KeyValueStore,
    Others,
    OwnKeyValues,
    StoreKeyValues,
)
from distwatch.agent.initialization.library import Layout, Library
from distwatch.agent.initialization.steps import Deadlines, Ledger
from distwatch.agent.initialization.store_connect import connect
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitFailed, InitTimeout
from distwatch.redaction import redact_command
from distwatch.runfolder import host_name, start_ticks
from distwatch.state.addresses import split_endpoint
from distwatch.state.agreement import layouts_differ
from distwatch.state.events import FindingRaised, InitPlanned
from distwatch.state.group_creation import CreationProgress
from distwatch.tcpstore import StoreClient, StoreUnreachable
from distwatch.visible_text import say

PATIENCE_S = 10.0
LINGER_S = 3.0
_failed_epochs: dict[tuple[str, str], int] = {}
"""The newest attempt of this process that failed, by endpoint and prefix."""


class Rendezvous:
    """What forming a world and adding groups to it have in common. Subclasses say the steps."""

    def __init__(
        self,
        launched: Launched,
        plan: InitPlanned,
        deadlines: Deadlines,
        library: Library,
        agent: Agent | None,
        prefix: str,
    ) -> None:
        """
        Args:
            prefix: for our keys in the store, the same on every rank, and new for each meeting.
        """
        self._launched = launched
        self._plan = plan
        self._deadlines = deadlines
        self._library = library
        self._agent = agent
        self._prefix = prefix
        self._epoch = 0
        self._ledger = Ledger(agent)
        self._failures = InitFailures(launched, agent, self._ledger)
        self._client: StoreClient | None = None
        self._arrival: Arrival | None = None
        self._key_values: KeyValueStore | None = None
        self._arrive_within_s = self._arrive_until = 0.0

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Reports a failure to the journal and to the other ranks before it is raised."""
        try:
            yield
        except InitFailed as failure:
            self._tell(failure)
            raise
        except msgspec.DecodeError as error:
            strange = unreadable(error)
            self._tell(strange)
            raise strange from error
        except OSError as error:
            lost = self._failures.store_lost(self._ledger.current, error)
            self._tell(lost)
            raise lost from error

    # ---- the steps -------------------------------------------------------------------------

    def _enter(self) -> Arrival:
        """Reaches the store and the current attempt."""
        self._key_values = self._reach_key_values()
        key_values = self._key_values.below(str(self._enter_epoch(self._key_values)))
        self._arrival = Arrival(
            key_values, self._me(), self._rank, self._world, self._failures.look_for
        )
        return self._arrival

    def _reach_key_values(self) -> KeyValueStore:
        if self._launched.method == "alone":
            return OwnKeyValues()
        if self._launched.method == "file":
            with self._step(st.STORE):
                return self._reach_file()
        return self._reach_store()

    def _reach_file(self) -> FileKeyValues:
        try:
            key_values = FileKeyValues(self._launched.endpoint, self._prefix)
            # Ranks that ended without closing their world have left its files.
            if Arrival(key_values.below("0"), self._me(), self._rank, self._world).all_over():
                key_values.remove()
                key_values = FileKeyValues(self._launched.endpoint, self._prefix)
        except OSError as error:
            raise InitFailed(
                f"this rank cannot write beside {self._launched.endpoint}: {error}",
                step=st.STORE,
                advice="init_method='file://…' needs a folder that every rank can write to.",
            ) from error
        return key_values

    def _enter_epoch(self, key_values: KeyValueStore) -> int:
        """The number of this attempt; a rank that failed in one attempt opens the next."""
        place = (self._launched.endpoint, self._prefix)
        failed = _failed_epochs.get(place)
        if failed is not None:
            key_values.claim(
                "epoch", str(failed + 1).encode(), str(failed).encode() if failed else b""
            )
        self._epoch = int(key_values.get("epoch") or b"0")
        return self._epoch

    def _reach_store(self) -> StoreKeyValues:
        address = split_endpoint(self._launched.endpoint)
        if address is None:
            raise InitFailed(
                f"{self._launched.endpoint!r} is not host:port",
                step=st.ENDPOINT,
                advice="Set MASTER_ADDR and MASTER_PORT, or init_method='tcp://host:port'.",
            )
        self._host_store(address)
        with self._step(st.ENDPOINT, label=self._launched.endpoint):
            client = self._client = self._meet(address)
        return StoreKeyValues(client, self._prefix, self._others())

    def _host_store(self, address: tuple[str, int]) -> None:
        """Listens at the endpoint, where this rank has to and does not yet."""

    def _others(self) -> Others:
        """How the store shows ranks that call torch directly."""
        return "unknown"

    def _meet(self, address: tuple[str, int]) -> StoreClient:
        within_s = self._deadlines.of(st.ENDPOINT)
        try:
            return connect(*address, within_s, lambda why: self._ledger.tell(0, label=why))
        except StoreUnreachable as error:
            awaited = self._launched.store_host == "rank 0" and self._rank != 0
            if error.outcome == "refused" and awaited:
                # Nobody listens: the rank that hosts the store has not arrived.
                raise self._failures.absent(st.ENDPOINT, within_s, (0,), (self._rank,)) from None
            raise self._failures.not_reached(error, within_s) from None

    def _arrive(self, arrival: Arrival) -> bool:
        within_s = self._arrive_within_s = self._deadlines.of(st.ARRIVAL)
        self._arrive_until = until = time.monotonic() + within_s

        told = [0]

        def turn(here: int) -> None:
            if told != [here]:
                told[:] = [here]
                self._ledger.tell(here, self._world)
            self._failures.raise_if_hopeless(st.ARRIVAL)

        try:
            arrival.come()
            return arrival.wait(until, min(PATIENCE_S, within_s / 2), turn)
        except InitFailed:
            raise
        except Late:
            raise self._failures.late(arrival, st.ARRIVAL, within_s) from None
        except OSError as error:
            raise self._failures.store_lost(st.ARRIVAL, error) from error

    def _create(self, arrival: Arrival, without: tuple[int, ...], within_s: float) -> Layout:
        """The framework's groups.

        Args:
            without: ranks that build them without `distwatch.initialize`.
        """
        with self._step(st.FRAMEWORK, within_s, label=self._plan.framework):
            watch = self._watch_groups(arrival)
            supervised = self._supervised(
                st.FRAMEWORK,
                within_s,
                arrival,
                late=lambda: self._failures.creation_late(
                    arrival, within_s, self._arrive_within_s, without, watch
                ),
                watch=watch,
            )
            with self._failing(st.FRAMEWORK, arrival), supervised:
                return self._library.build(self._plan)

    def _prove(self, arrival: Arrival, layout: Layout, without: tuple[int, ...]) -> None:
        """Every rank holds the same groups as its peers in them."""
        with self._step(st.LAYOUTS):
            self._agree_on_layout(arrival, layout, without)

    def _watch_groups(self, arrival: Arrival) -> Callable[[], None]:
        """Tells the other ranks how far this one is; once now, then whenever it is called."""
        told: list[CreationProgress | None] = []

        def watch() -> None:
            progress = self._library.creation_progress()
            if told != [progress]:
                told[:] = [progress]
                arrival.put("groups", msgspec.msgpack.encode(progress))

        watch()
        return watch

    def _agree_on_layout(self, arrival: Arrival, layout: Layout, without: tuple[int, ...]) -> None:
        within_s = self._deadlines.of(st.LAYOUTS)
        arrival.put("layout", msgspec.msgpack.encode(layout))
        peers = {rank for members in layout.values() for rank in members} - set(without)
        try:
            words = arrival.collect("layout", tuple(sorted(peers)), time.monotonic() + within_s)
        except Late as error:
            missing = error.missing
            raise self._failures.absent(
                st.LAYOUTS, within_s, missing, tuple(sorted(peers - set(missing)))
            ) from error
        layouts = {rank: msgspec.msgpack.decode(word, type=Layout) for rank, word in words.items()}
        if finding := layouts_differ(layouts):
            raise arrival.fail(st.LAYOUTS, finding)

    # ---- reporting -----------------------------------------------------------------------------

    def _tell(self, failure: InitFailed) -> None:
        """Reports to the journal, and to ranks that arrive later, why the world does not form."""
        self._ledger.give_up(failure)
        if failure.finding is not None and self._agent is not None:
            self._agent.record(FindingRaised(finding=failure.finding, step=failure.step))
        _failed_epochs[self._launched.endpoint, self._prefix] = self._epoch
        if self._arrival is not None:
            with contextlib.suppress(OSError, InitFailed):
                if failure.finding is not None and not isinstance(failure, InitTimeout):
                    self._arrival.fail(failure.step, failure.finding)
        if self._launched.hosts_store and self._arrival is not None:
            # The store ends with this process: later ranks must read the reason first.
            atexit.register(self._arrival.linger, time.monotonic() + LINGER_S)
        else:
            self._close_key_values()

    def _warn(self, arrival: Arrival) -> None:
        for finding in arrival.warnings:
            say(f"{finding.summary}. {finding.advice}")
            if self._agent is not None:
                self._agent.record(FindingRaised(finding=finding, step=st.AGREEMENT))

    # ---- parts -----------------------------------------------------------------------------

    @property
    def _rank(self) -> int:
        return self._launched.global_rank or 0

    @property
    def _world(self) -> int:
        return self._launched.world_size or 1

    def _me(self) -> Arrived:
        pid = os.getpid()
        return Arrived(
            plan=self._plan,
            host=host_name(),
            pid=pid,
            start_ticks=start_ticks(pid),
            command=" ".join(redact_command(sys.orig_argv[:8]))[:200],
        )

    @contextlib.contextmanager
    def _step(
        self,
        name: str,
        within_s: float | None = None,
        *,
        label: str = "",
        total: int | None = None,
    ) -> Iterator[None]:
        within_s = self._deadlines.of(name) if within_s is None else within_s
        with self._ledger.step(name, within_s, label=label, total=total):
            yield

    @contextlib.contextmanager
    def _failing(self, step: str, arrival: Arrival) -> Iterator[None]:
        """Turns an exception of torch's into a failure of that step."""
        try:
            yield
        except InitFailed:
            raise
        except Exception as error:
            raise self._failures.torch_failed(step, error, arrival) from error

    def _supervised(
        self,
        step: str,
        within_s: float,
        arrival: Arrival,
        *,
        late: Callable[[], InitFailed],
        watch: Callable[[], None] = lambda: None,
    ) -> Supervision:
        """A call of torch's, ended at the deadline, or at once where another rank has failed.

        Args:
            late: creates the failure at the deadline.
            watch: called four times a second.
        """

        def look() -> InitFailed | None:
            try:
                watch()
                arrival.look()
                if step == st.ARRIVAL:
                    self._failures.raise_if_hopeless(step)
                self._failures.remind()
            except InitFailed as failure:
                return failure
            except OSError as error:
                return self._failures.store_lost(step, error)
            return None

        address = split_endpoint(self._launched.endpoint)
        return Supervision(
            deadline_s=within_s,
            port=address[1] if address else None,
            late=late,
            look=look,
            spared=lambda: {self._client.fileno()} if self._client else set(),
        )

    def _close_key_values(self) -> None:
        if self._key_values is not None:
            self._key_values.close()
