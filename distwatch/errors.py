"""What distwatch raises at its users. Every error says what to do."""

from __future__ import annotations

from distwatch.state.finding import Finding


class DistwatchError(Exception):
    """Base of all. `finding` is the diagnosis behind it, where there is one."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "", finding: Finding | None = None) -> None:
        super().__init__(message)
        self.advice = advice
        self.finding = finding

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.advice}" if self.advice else message


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
