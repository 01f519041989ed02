"""The exceptions that distwatch raises to its users. Every one says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from distwatch.state.finding import Finding
from distwatch.visible_text import visible


class DistwatchError(Exception):
    """The base of all. `finding` is the diagnosis behind it, if there is one, and gives its advice."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "", finding: Finding | None = None) -> None:
        super().__init__(visible(message))
        self.advice = visible(advice or (finding.advice if finding else ""))
        self.finding = finding

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.advice}" if self.advice else message


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The advice for an unknown word: the word that was probably meant, if there is one."""
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
        deadline_s: of that step.
        arrived: global ranks that arrived.
        missing: those that did not.
        places: by global rank, where each missing rank is now, as far as was seen.
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
    """This process holds a world with another plan.

    Attributes:
        held: the plan of the existing world.
        asked: the plan that was requested now.
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
    """A plan from which no world can be built: sizes that do not divide, an unknown framework, …."""

    exit_code = 2


class UsageError(DistwatchError):
    """A call or command that makes no sense as written."""

    exit_code = 2


class AttachDenied(DistwatchError):
    """The system does not allow reading that process."""

    exit_code = 4


class NoSuchTarget(DistwatchError):
    """No such run, process, file or folder."""

    exit_code = 5


class PartialData(DistwatchError):
    """The data there cannot be read completely."""

    exit_code = 6
