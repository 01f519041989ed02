"""The result of one look at the machine: passed, a warning, or a failure with its fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Status = Literal["pass", "warn", "fail"]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was checked.

    Attributes:
        what: its name, as a heading.
        detail: what was seen, or why it could not be seen.
        fix: what to do about it; '' where nothing has to be done.
    """

    status: Status
    what: str
    detail: str
    fix: str = ""


Look = Callable[[], Checked]


def passed(what: str, detail: str) -> Checked:
    """All is well."""
    return Checked(status="pass", what=what, detail=detail)


def warned(what: str, detail: str, fix: str) -> Checked:
    """It works, but it will cause trouble."""
    return Checked(status="warn", what=what, detail=detail, fix=fix)


def failed(what: str, detail: str, fix: str) -> Checked:
    """It does not work."""
    return Checked(status="fail", what=what, detail=detail, fix=fix)
