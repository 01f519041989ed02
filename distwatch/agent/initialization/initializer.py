"""Forms a world step by step, each step under its deadline, and says which rank prevents it."""

from __future__ import annotations

import contextlib
import time

import msgspec

from distwatch.agent.core import Agent
from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.arrival import Arrival
from distwatch.agent.initialization.environment import Launched, unfit
from distwatch.agent.initialization.key_value_store import FileKeyValues, Others
from distwatch.agent.initialization.library import Formed, Layout, Library
from distwatch.agent.initialization.plan import torch_version_of
from distwatch.agent.initialization.rendezvous import Rendezvous
from distwatch.agent.initialization.steps import Deadlines
from distwatch.errors import InitFailed
from distwatch.state.events import InitPlanned
from distwatch.state.rank_sets import name_ranks


class Initializer(Rendezvous):
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
        prefix = f"distwatch/{launched.attempt}/{formed_before}"
        super().__init__(launched, plan, deadlines, library, agent, prefix)
        self._formed_before = formed_before

    def run(self) -> Formed:
        """Performs every step.

        Raises:
            InitFailed: the world cannot form, with the finding.
            InitTimeout: a step did not end in time.
        """
        label = f"{self._plan.backend}, {self._plan.endpoint or self._launched.method}"
        whole_s = self._deadlines.whole_s
        with (
            self._ledger.step("initialize", whole_s, label=label, site=self._plan.site),
            self._reporting(),
        ):
            return self._perform()

    def _perform(self) -> Formed:
        with self._step(st.ENVIRONMENT):
            self._check_environment()
        arrival = self._enter()
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

    def _host_store(self, address: tuple[str, int]) -> None:
        if not self._launched.hosts_store:
            return
        within_s = self._deadlines.of(st.STORE)
        with self._step(st.STORE, label=f"listens at {self._launched.endpoint}"):
            try:
                self._library.host_store(*address, self._world, within_s)
            except (RuntimeError, OSError) as error:
                raise self._failures.not_hosted(error) from error

    def _others(self) -> Others:
        if self._formed_before:
            return "unknown"
        # A store hosted by torchrun also counts torchrun's own clients, and those of earlier attempts.
        if self._launched.store_host == "rank 0":
            return "clients"
        # Before torch 2.10, a store closes the connection when a client lists its keys.
        listing = torch_version_of(self._plan) >= (2, 10)
        return "addresses" if listing and "gloo" in self._plan.backend else "unknown"

    def _form(self, arrival: Arrival, complete: bool) -> None:
        step = st.GROUP
        within_s = told_s = self._deadlines.of(st.GROUP)
        if not complete:
            # torch waits for the missing ranks, under what is left of the arrival's deadline.
            step, told_s = st.ARRIVAL, self._arrive_within_s
            within_s = max(0.0, self._arrive_until - time.monotonic())
        supervised = self._supervised(
            step, within_s, arrival, late=lambda: self._failures.late(arrival, step, told_s)
        )
        with self._failing(st.GROUP, arrival):
            with supervised:
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
        supervised = self._supervised(
            st.ROUND_TRIP,
            within_s,
            arrival,
            late=lambda: self._failures.late(arrival, st.ROUND_TRIP, within_s),
        )
        with self._failing(st.ROUND_TRIP, arrival), supervised:
            self._library.round_trip(self._world, within_s)
        return ()

    def _build(self, arrival: Arrival, without: tuple[int, ...]) -> Layout:
        if not self._plan.framework:
            return {}
        layout = self._create(arrival, without, self._deadlines.of(st.FRAMEWORK))
        self._prove(arrival, layout, without)
        return layout

    def _leave(self) -> None:
        """The last rank to leave a world with `file://` removes our files."""
        if isinstance(self._key_values, FileKeyValues) and self._arrival is not None:
            with contextlib.suppress(OSError):
                if self._arrival.leave():
                    self._key_values.remove()
            self._key_values = None
