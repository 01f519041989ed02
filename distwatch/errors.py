"""What distwatch raises at its users. Every error says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from distwatch.state.finding import Finding
from distwatch.visible_text import visible


class DistwatchError(Exception):
    """Base of all. `finding` is the diagnosis behind it, where there is one, and gives its advice."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "", finding: Finding | None = None) -> None:
        super().__init__(visible(message))
        self.advice = visible(advice or (finding.advice if finding else ""))
        self.finding = finding

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.advice}" if self.advice else message


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The advice for a word that is not known: the one that was meant, as far as it can be told."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


class InitFailed(DistwatchError):
    """A world cannot form: `finding` says why and who.

    Attributes:
        step: the step of the initialization that failed.
    """

    def __init__(
        self, message: str, *, step: str, advice: str = "", finding: Finding | None = None
    ) -> None:
        super().__init__(message, advice=advice, finding=finding)
        self.step = step


class InitTimeout(InitFailed, TimeoutError):
    """A step of the initialization did not end within its deadline.

    Attributes:
        deadline_s: of that step.
        arrived: global ranks that came.
        missing: those that did not.
        places: where each missing rank is now, as far as anybody saw, by global rank.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str,
        deadline_s: float,
        arrived: tuple[int, ...] = (),
        missing: tuple[int, ...] = (),
        places: Mapping[int, str] | None = None,
        advice: str = "",
        finding: Finding | None = None,
    ) -> None:
        super().__init__(message, step=step, advice=advice, finding=finding)
        self.deadline_s = deadline_s
        self.arrived = arrived
        self.missing = missing
        self.places = dict(places or {})


class AlreadyInitialized(DistwatchError):
    """This process holds a world of another plan.

    Attributes:
        held: the plan of the world that holds.
        asked: the plan that was asked for now.
        first_call: the stack of the call that formed the world, outermost line first.
    """

    def __init__(
        self,
        message: str,
        *,
        held: str,
        asked: str,
        first_call: tuple[str, ...] = (),
        finding: Finding | None = None,
    ) -> None:
        super().__init__(
            message,
            advice="Close the first world (`world.close()`) before forming another.",
            finding=finding,
        )
        self.held = held
        self.asked = asked
        self.first_call = first_call


class PlanInvalid(DistwatchError):
    """A plan that no world can be built by: sizes that do not divide, an unknown framework, …."""

    exit_code = 2


class UsageError(DistwatchError):
    """The call cannot be meant as it is written."""

    exit_code = 2


class AttachDenied(DistwatchError):
    """The system does not let us look at that process."""

    exit_code = 4


class NoSuchTarget(DistwatchError):
    """No such run, process, file or folder."""

    exit_code = 5


class PartialData(DistwatchError):
    """What is there cannot be read in full."""

    exit_code = 6
