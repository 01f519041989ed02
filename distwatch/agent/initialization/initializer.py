"""Forms a world step by step, each step under its deadline, and says which rank prevents it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterator

import msgspec

from distwatch.agent.core import Agent
from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.arrival import Arrival, Late, unreadable
from distwatch.agent.initialization.arrival_messages import Arrived
from distwatch.agent.initialization.environment import Launched, unfit
from distwatch.agent.initialization.init_failures import InitFailures
from distwatch.agent.initialization.key_value_store import (
    FileKeyValues,
    KeyValueStore,
    Others,
    OwnKeyValues,
    StoreKeyValues,
)
from distwatch.agent.initialization.library import Formed, Layout, Library
from distwatch.agent.initialization.plan import torch_version_of
from distwatch.agent.initialization.steps import Deadlines, Ledger
from distwatch.agent.initialization.store_connect import connect
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitFailed, InitTimeout
from distwatch.redaction import redact_command
from distwatch.runfolder import host_name, start_ticks
from distwatch.state.addresses import split_endpoint
from distwatch.state.agreement import layouts_differ
from distwatch.state.events import FindingRaised, InitPlanned
from distwatch.state.rank_sets import name_ranks
from distwatch.tcpstore import StoreClient, StoreUnreachable
from distwatch.visible_text import say

PATIENCE_S = 10.0
LINGER_S = 3.0
_failed_epochs: dict[tuple[str, str], int] = {}
"""The newest attempt of this process that failed, by endpoint and world."""


class Initializer:
    """One initialization of one process."""

    def __init__(
        self,
        launched: Launched,
        plan: InitPlanned,
        deadlines: Deadlines,
        library: Library,
        agent: Agent | None,
        formed_before: int,
    ) -> None:
        """`formed_before`: how many worlds this process, like every other rank, has formed before."""
        self._launched = launched
        self._plan = plan
        self._deadlines = deadlines
        self._library = library
        self._agent = agent
        self._formed_before = formed_before
        self._prefix = f"distwatch/{launched.attempt}/{formed_before}"
        self._epoch = 0
        self._ledger = Ledger(agent)
        self._failures = InitFailures(launched, agent, self._ledger)
        self._client: StoreClient | None = None
        self._arrival: Arrival | None = None
        self._key_values: KeyValueStore | None = None
        self._arrive_within_s = self._arrive_until = 0.0

    def run(self) -> Formed:
        """Performs every step.

        Raises:
            InitFailed: the world cannot form, with the finding.
            InitTimeout: a step did not end in time.
        """
        label = f"{self._plan.backend}, {self._plan.endpoint or self._launched.method}"
        whole_s = self._deadlines.whole_s
        with self._ledger.step("initialize", whole_s, label=label, site=self._plan.site):
            try:
                return self._perform()
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

    def _perform(self) -> Formed:
        with self._step(st.ENVIRONMENT):
            self._check_environment()
        self._key_values = self._reach_key_values()
        key_values = self._key_values.below(str(self._enter_epoch(self._key_values)))
        arrival = self._arrival = Arrival(
            key_values, self._me(), self._rank, self._world, self._failures.look_for
        )
        with self._step(st.ARRIVAL, total=self._world):
            complete = self._arrive(arrival)
        with self._step(st.AGREEMENT):
            arrival.agree()
            self._warn(arrival)
        with self._step(st.GROUP):
            self._form(arrival, complete)
        with self._step(st.ROUND_TRIP):
            without = self._exchange(arrival, complete)
        layout = self._build(arrival, without)
        if self._launched.method != "file":
            self._close_key_values()
        return Formed(
            launched=self._launched,
            plan=self._plan,
            layout=layout,
            without=without,
            leave=self._leave,
        )

    # ---- the steps -------------------------------------------------------------------------

    def _check_environment(self) -> None:
        finding = unfit(self._launched) or self._library.unavailable(
            self._plan.backend, self._launched
        )
        if finding is not None:
            raise InitFailed(finding.summary, step=st.ENVIRONMENT, finding=finding)

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
        if self._launched.hosts_store:
            within_s = self._deadlines.of(st.STORE)
            with self._step(st.STORE, label=f"listens at {self._launched.endpoint}"):
                try:
                    self._library.host_store(*address, self._world, within_s)
                except (RuntimeError, OSError) as error:
                    raise self._failures.not_hosted(error) from error
        with self._step(st.ENDPOINT, label=self._launched.endpoint):
            client = self._client = self._meet(address)
        return StoreKeyValues(client, self._prefix, self._others())

    def _others(self) -> Others:
        """How the store shows ranks that call torch directly."""
        if self._formed_before:
            return "unknown"
        # A store hosted by torchrun also counts torchrun's own clients, and those of earlier attempts.
        if self._launched.store_host == "rank 0":
            return "clients"
        # Before torch 2.10, a store closes the connection when a client lists its keys.
        listing = torch_version_of(self._plan) >= (2, 10)
        return "addresses" if listing and "gloo" in self._plan.backend else "unknown"

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

        def tell(here: int) -> None:
            self._ledger.tell(here, self._world)

        try:
            arrival.come()
            return arrival.wait(until, min(PATIENCE_S, within_s / 2), tell)
        except InitFailed:
            raise
        except Late:
            raise self._failures.late(arrival, st.ARRIVAL, within_s) from None
        except OSError as error:
            raise self._failures.store_lost(st.ARRIVAL, error) from error

    def _form(self, arrival: Arrival, complete: bool) -> None:
        step = st.GROUP
        within_s = told_s = self._deadlines.of(st.GROUP)
        if not complete:
            # torch waits for the missing ranks, under what is left of the arrival's deadline.
            step, told_s = st.ARRIVAL, self._arrive_within_s
            within_s = max(0.0, self._arrive_until - time.monotonic())
        with self._failing(st.GROUP, arrival):
            with self._supervised(step, within_s, arrival, told_s):
                self._library.form(self._launched, self._plan, within_s, self._own_keys())
            arrival.formed()

    def _own_keys(self) -> str:
        """A prefix for torch's keys; '' for the first world. A later world would find them used."""
        # https://github.com/pytorch/pytorch/issues/55967: torch counts groups from 0 again and hangs.
        again = self._formed_before or self._epoch
        return f"{self._prefix}/{self._epoch}/torch" if again else ""

    def _exchange(self, arrival: Arrival, complete: bool) -> tuple[int, ...]:
        """A real round trip, if every rank takes part; returns the ranks that would not."""
        within_s = self._deadlines.of(st.ROUND_TRIP)
        missing = () if complete else arrival.sweep()
        # Ranks that joined through torch alone; the first rank to ask decides for all.
        word = arrival.agree_on("without", msgspec.msgpack.encode(missing))
        without = msgspec.msgpack.decode(word, type=tuple[int, ...])
        if without:
            self._ledger.tell(
                0,
                label=f"skipped: {name_ranks(without, 'does', 'do')} not use distwatch.initialize",
            )
            return without
        with (
            self._failing(st.ROUND_TRIP, arrival),
            self._supervised(st.ROUND_TRIP, within_s, arrival),
        ):
            self._library.round_trip(self._world, within_s)
        return ()

    def _build(self, arrival: Arrival, without: tuple[int, ...]) -> Layout:
        if not self._plan.framework:
            return {}
        within_s = self._deadlines.of(st.FRAMEWORK)
        with self._step(st.FRAMEWORK, label=self._plan.framework):
            failing = self._failing(st.FRAMEWORK, arrival)
            with failing, self._supervised(st.FRAMEWORK, within_s, arrival):
                layout = self._library.build(self._plan)
        with self._step(st.LAYOUTS):
            self._agree_on_layout(arrival, layout, without)
        return layout

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

    def _leave(self) -> None:
        """The last rank to leave a world with `file://` removes our files."""
        if isinstance(self._key_values, FileKeyValues) and self._arrival is not None:
            with contextlib.suppress(OSError):
                if self._arrival.leave():
                    self._key_values.remove()
            self._key_values = None

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
    def _step(self, name: str, *, label: str = "", total: int | None = None) -> Iterator[None]:
        with self._ledger.step(name, self._deadlines.of(name), label=label, total=total):
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
        self, step: str, within_s: float, arrival: Arrival, told_s: float | None = None
    ) -> Supervision:
        """`told_s`: the deadline to report, where a part of it was already used."""

        def look() -> InitFailed | None:
            try:
                arrival.look()
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
            late=lambda: self._failures.late(arrival, step, told_s or within_s),
            look=look,
            spared=lambda: {self._client.fileno()} if self._client else set(),
        )

    def _close_key_values(self) -> None:
        if self._key_values is not None:
            self._key_values.close()
            self._key_values = None
