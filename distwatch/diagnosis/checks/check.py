"""The interface of a check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from distwatch.diagnosis.facts.case import Case
from distwatch.state.finding import Finding


class Check(Protocol):
    """One mechanism. It may read everything and changes nothing."""

    def find(self, case: Case) -> Iterable[Finding]:
        """The findings of this mechanism, in any order."""
        ...
