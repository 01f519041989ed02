"""Adds a framework's groups to a world that exists, under the same deadlines as a world that forms."""

from __future__ import annotations

import time

import msgspec

from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.arrival import Arrival
from distwatch.agent.initialization.library import Layout
from distwatch.agent.initialization.rendezvous import Rendezvous
from distwatch.state.steps import ADDITION


class FrameworkAddition(Rendezvous):
    """One rank's part: every rank arrives, the plans are compared, then the groups are built."""

    def run(self) -> Layout:
        """Performs every step; returns this rank's groups.

        Raises:
            InitFailed: the ranks ask for different groups, or the framework's own error.
            InitTimeout: a rank did not come, or did not enter the creation of a group.
        """
        whole_s, label = self._deadlines.whole_s, self._plan.framework
        with (
            self._ledger.step(ADDITION, whole_s, label=label, site=self._plan.site),
            self._reporting(),
        ):
            layout = self._perform()
            self._close_key_values()
            return layout

    def _perform(self) -> Layout:
        arrival = self._enter()
        with self._step(st.JOINING, total=self._world):
            complete = self._arrive(arrival)
            arrival.agree()
            self._warn(arrival)
        within_s = self._deadlines.of(st.FRAMEWORK)
        if not complete:
            # The others may call the framework itself; if they do not come, this ends as their arrival would.
            within_s = min(within_s, max(0.0, self._arrive_until - time.monotonic()))
        layout = self._create(arrival, (), within_s)
        self._prove(arrival, layout, () if complete else self._without(arrival))
        return layout

    def _without(self, arrival: Arrival) -> tuple[int, ...]:
        """Ranks that have called the framework itself; the first rank to ask decides for all."""
        word = arrival.agree_on("without", msgspec.msgpack.encode(arrival.sweep()))
        return msgspec.msgpack.decode(word, type=tuple[int, ...])
