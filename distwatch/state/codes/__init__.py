"""The codes of findings: one row each, in order of precedence.

An earlier row explains a later one about the same culprits or their waiters. To add a code, put its
row before the rows of what it causes.
"""

from __future__ import annotations

from distwatch.state.codes.blocked import BLOCKED
from distwatch.state.codes.code import FAMILIES, Code, Family, Situation
from distwatch.state.codes.disagreeing import DISAGREEING
from distwatch.state.codes.ended import ENDED
from distwatch.state.codes.started_wrong import STARTED_WRONG
from distwatch.state.codes.waiting import WAITING

__all__ = [
    "CODES",
    "FAMILIES",
    "Code",
    "Family",
    "Situation",
    "code_of",
    "family_of",
    "precedence_of",
]

CODES: tuple[Code, ...] = (*STARTED_WRONG, *ENDED, *DISAGREEING, *BLOCKED, *WAITING)
_BY_NAME = {code.name: code for code in CODES}
_PRECEDENCE = {code.name: number for number, code in enumerate(CODES)}
_UNKNOWN = Family("", "Codes of another version")


def code_of(name: str) -> Code:
    """The row of a code; an empty row for a code of another version of distwatch."""
    return _BY_NAME.get(name) or Code(name, "", "")


def family_of(name: str) -> Family:
    """The family of a code."""
    return FAMILIES.get(name.partition(".")[0], _UNKNOWN)


def precedence_of(name: str) -> int:
    """The place of a code in the order of causes; a code that is not in the table comes last."""
    return _PRECEDENCE.get(name, len(CODES))
