"""The named steps of an initialization and their deadlines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from distwatch.agent.core import Agent
from distwatch.agent.guard import error_text
from distwatch.errors import GIVE_SECONDS, PlanInvalid, did_you_mean
from distwatch.state.events import Site
from distwatch.state.steps import DEADLINES, FRAMEWORK_PARTS, INIT
from distwatch.state.steps import GROUP as GROUP_KIND

ENVIRONMENT, ENDPOINT, STORE, ARRIVAL, AGREEMENT, GROUP, ROUND_TRIP = INIT.parts
JOINING, FRAMEWORK, LAYOUTS = FRAMEWORK_PARTS
STEPS = (*INIT.parts, FRAMEWORK, LAYOUTS)
_SHORT = {"group": GROUP, "round_trip": ROUND_TRIP, "framework": FRAMEWORK, "framework_groups": FRAMEWORK,
          "process_group": GROUP}  # fmt: skip


class Deadlines:
    """Seconds by step. A step without its own deadline gets what is left of the whole."""

    def __init__(
        self, asked: Mapping[str, float] | None, kinds: Mapping[str, float] = DEADLINES
    ) -> None:
        """
        Args:
            asked: by a step's name (with spaces or underscores), `group` for short, or `init`: the whole.
            kinds: by kind of step, where `asked` has no `init`: that one for the whole, `group` for a
                framework's groups.

        Raises:
            PlanInvalid: an unknown step, or a number that is not positive.
        """
        own = {
            _step_name(name): positive_seconds(name, value) for name, value in (asked or {}).items()
        }
        if "init" not in own:
            own = {FRAMEWORK: kinds[GROUP_KIND.name], **own}
        self.whole_s = own.pop("init", kinds[INIT.name])
        self._own = own
        self._began = time.monotonic()

    def of(self, step: str) -> float:
        """Seconds that a step may take if it begins now."""
        step = ARRIVAL if step == JOINING else step
        left_s = self._began + self.whole_s - time.monotonic()
        return max(0.0, min(left_s, self._own.get(step, left_s)))


def _step_name(name: str) -> str:
    known = {**_SHORT, **{step: step for step in STEPS}, "init": "init"}
    if name in known:
        return known[name]
    hint = did_you_mean(name, known, f"There are {', '.join(sorted(known))}.")
    raise PlanInvalid(f"deadlines: there is no step {name!r}", advice=hint)


def positive_seconds(name: str, value: float) -> float:
    """A deadline.

    Raises:
        PlanInvalid: it is not a positive number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise PlanInvalid(f"deadlines[{name!r}] is {value!r}", advice=GIVE_SECONDS)
    return float(value)


class Ledger:
    """Journals the steps; without an agent it only keeps their names."""

    def __init__(self, agent: Agent | None) -> None:
        self._agent = agent
        self.current = ""
        self._open: list[int] = []

    @contextlib.contextmanager
    def step(
        self, name: str, deadline_s: float, *, label: str = "", total: int | None = None,
        site: Site | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """One step; an exception inside is its error."""
        outer, self.current = self.current, name
        number = self._begin(name, deadline_s, label, total, site)
        try:
            yield
        except BaseException as error:
            self._end(number, error)
            raise
        self._end(number, None)
        self.current = outer

    def tell(self, done: int, total: int | None = None, label: str = "") -> None:
        """Records progress of the innermost step."""
        if self._agent is not None and self._open:
            self._agent.progress_step(self._open[-1], done, total, label)

    def give_up(self, error: BaseException) -> None:
        """Records that the open steps have failed, before the caller gets the error."""
        while self._open:
            self._end(self._open[-1], error)

    def _begin(
        self, name: str, deadline_s: float, label: str, total: int | None, site: Site | None
    ) -> int:
        if self._agent is None:
            return 0
        number = self._agent.begin_step(
            name, deadline_s=deadline_s, label=label, total=total, site=site
        )
        self._open.append(number)
        return number

    def _end(self, number: int, error: BaseException | None) -> None:
        if self._agent is not None and number in self._open:
            self._open.remove(number)
            self._agent.end_step(number, error_text(error))
