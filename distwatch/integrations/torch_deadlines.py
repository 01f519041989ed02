"""DISTWATCH_ON_HANG=raise|abort: ends torch's own initialization after its deadline.

With `report`, the default, nothing here is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from distwatch.agent.core import Agent
from distwatch.agent.initialization.missing_ranks import ask_until, explaining, places_in
from distwatch.agent.initialization.plan import read_plan
from distwatch.agent.initialization.store_connect import connect
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitFailed, InitTimeout, not_done
from distwatch.hooks.call_hook import arguments_of
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import running_agent
from distwatch.settings import ENDS_CULPRITS
from distwatch.state.addresses import split_endpoint
from distwatch.state.events import FindingRaised, InitPlanned
from distwatch.state.steps import INIT, KINDS, StepKind
from distwatch.state.verdict import Verdict
from distwatch.tcpstore import StoreUnreachable

TIMEOUT_SHARE = 0.8
"""distwatch acts before torch's own timeout does."""


def supervise(module: ModuleType, patches: PatchSet, on_hang: str) -> None:
    """Puts torch's initializing functions under deadlines that end them."""
    for kind in KINDS:
        for name in kind.supervised:
            if (original := vars(module).get(name)) is not None:
                supervised = _supervised(original, name, kind, on_hang)
                patches.replace(module, name, supervised, rebinds=True)


def _supervised(
    original: Callable[..., Any], name: str, kind: StepKind, on_hang: str
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        agent = running_agent()
        # `distwatch.initialize` has its own deadlines.
        if agent is None or agent.is_initializing:
            return original(*args, **kwargs)
        plan = agent.retained.get(InitPlanned)
        if kind is INIT:
            given = arguments_of(original, args, kwargs)
            plan = read_plan(given) if given is not None else None
        limit_s = agent.settings.deadlines[kind.name]
        if plan is not None and plan.timeout_s is not None:
            limit_s = min(limit_s, TIMEOUT_SHARE * plan.timeout_s)
        hang = _Hang(agent, name, limit_s, plan, on_hang)
        if kind is INIT and on_hang == "raise":
            hang.await_endpoint()
        with hang.supervision():
            return original(*args, **kwargs)

    return call


class _Hang:
    """One supervised call, and what happens once it is late."""

    def __init__(
        self, agent: Agent, name: str, deadline_s: float, plan: InitPlanned | None, on_hang: str
    ) -> None:
        self._agent = agent
        self._name = name
        self._deadline_s = deadline_s
        self._plan = plan
        self._address = split_endpoint(plan.endpoint) if plan else None
        self._on_hang = on_hang
        self._supervision: Supervision | None = None

    def supervision(self) -> Supervision:
        """The context manager around the call."""
        self._supervision = Supervision(
            deadline_s=self._deadline_s,
            port=self._address[1] if self._address else None,
            late=self._late,
        )
        return self._supervision

    def await_endpoint(self) -> None:
        """Waits for the store here, since torch would wait in a call that nothing can interrupt.

        Raises:
            InitTimeout: no store answered within the deadline.
        """
        if self._plan is None or self._address is None or self._plan.hosts_store:
            return
        if self._plan.method not in ("env", "tcp"):
            return
        step = self._agent.begin_step("endpoint", deadline_s=self._deadline_s)
        try:
            connect(*self._address, self._deadline_s).close()
        except StoreUnreachable as error:
            self._agent.end_step(step, f"InitTimeout: {error.detail}")
            raise self._timeout(error.detail) from None
        self._agent.end_step(step)

    def _late(self) -> InitFailed:
        failure = self._timeout("")
        if self._on_hang in ENDS_CULPRITS:
            self._agent.end_rank(failure)
        return failure

    def _timeout(self, why: str) -> InitTimeout:
        verdict, _ = ask_until(self._agent.folder, _names_a_root, is_over=self._is_over)
        finding, missing = explaining(verdict), {}
        if verdict is not None and finding is not None:
            places = places_in(verdict, finding.culprit_ranks)
            missing = {rank: place.text for rank, place in places.items()}
        rank = self._plan.global_rank if self._plan else None
        waiting = finding.waiting_ranks if finding else ()
        told = finding.summary if finding else why or "no observer knows why"
        failure = InitTimeout(
            f"{not_done(self._name, self._deadline_s)}: {told}",
            step=self._name,
            deadline_s=self._deadline_s,
            arrived=tuple(sorted({*waiting, *(() if rank is None else (rank,))} - set(missing))),
            missing=tuple(missing),
            places=missing,
            finding=finding,
        )
        if finding is not None:
            self._agent.record(FindingRaised(finding=finding, step=self._name))
        return failure

    def _is_over(self) -> bool:
        return self._supervision is not None and self._supervision.is_over


def _names_a_root(verdict: Verdict) -> bool:
    """Whether it explains, too, what another rank waits for that this one waits for."""
    finding = explaining(verdict)
    return finding is not None and finding.role == "root"
