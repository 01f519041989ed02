"""The exceptions that distwatch raises to its users. Every one says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from distwatch.state.finding import Finding
from distwatch.visible_text import visible

GIVE_SECONDS = "Give a positive number of seconds."


class DistwatchError(Exception):
    """The base class. `finding` is the diagnosis behind the error, if there is one, with its advice."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "", finding: Finding | None = None) -> None:
        super().__init__(visible(message))
        self.advice = visible(advice or (finding.advice if finding else ""))
        self.finding = finding

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.advice}" if self.advice else message


def not_done(step: str, deadline_s: float) -> str:
    """The message about a step that did not finish within its deadline."""
    return f"{step} did not finish within {round(deadline_s, 1):g} s"


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The advice for an unknown word: the most similar known word, else `otherwise`."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


class InitFailed(DistwatchError):
    """A world cannot form: `finding` says why, and which ranks are at fault.

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
        deadline_s: the deadline of that step.
        arrived: global ranks that arrived.
        missing: global ranks that did not.
        places: by global rank, where each missing rank is now, as far as known.
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
    """This process already has a world with another plan.

    Attributes:
        held: the plan of the existing world.
        asked: the requested plan.
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
    """No world can be built from this plan: sizes that do not divide, an unknown framework, …."""

    exit_code = 2


class UsageError(DistwatchError):
    """An invalid call or command."""

    exit_code = 2


class AttachDenied(DistwatchError):
    """The system does not allow this user to read that process."""

    exit_code = 4


class NoSuchTarget(DistwatchError):
    """No such run, process, file or folder."""

    exit_code = 5


class PartialData(DistwatchError):
    """The data cannot be read completely."""

    exit_code = 6
