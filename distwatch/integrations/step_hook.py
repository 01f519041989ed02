"""A call of a library as a step of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from distwatch.agent.core import Agent
from distwatch.agent.guard import error_text
from distwatch.hooks.call_hook import CallHook
from distwatch.integrations.registry import running_agent
from distwatch.state.events import Site


class Called(NamedTuple):
    """A call in progress."""

    agent: Agent
    step: int
    site: Site | None = None
    given: Mapping[str, Any] = {}


class StepHook(CallHook):
    """Subclasses begin the step. Without an agent nothing is recorded."""

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        """The step of a call with these arguments."""
        raise NotImplementedError

    def hold(self, called: Called, result: Any) -> None:
        """The call has returned: the resulting state is journaled before the step ends."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Called | None:
        agent = running_agent()
        return self.begin(agent, self.given(args, kwargs)) if agent is not None else None

    def after(self, token: Called, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.hold(token, result)
        token.agent.end_step(token.step, error_text(error))
