"""Faults of a plan, and the findings made from them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from distwatch.state.finding import Evidence, Finding, Severity

_WORDS = {"world": "a world of", "expert_tensor": "expert tensor"}


class Fault(NamedTuple):
    """One thing that is wrong. `axes`: another size of one of them could fix it."""

    kind: str
    what: str
    advice: str = ""
    severity: Severity = "crash"
    axes: tuple[str, ...] = ()
    code: str = "group.size_invalid"

    @property
    def blocks(self) -> bool:
        """Whether the plan cannot run with this fault."""
        return self.severity in ("hang", "crash")


def finding_of(fault: Fault, working: Mapping[str, tuple[int, ...]]) -> Finding:
    """The finding of a fault.

    Args:
        working: by axis, the sizes that would fix it.
    """
    would = [f"{_WORDS.get(axis, axis)} {_either(sizes)}" for axis, sizes in working.items()]
    advice = fault.advice
    if would:
        advice = f"It would work with {', or with '.join(would)}. {fault.advice}".strip()
    elif fault.axes:
        advice = f"No change of one axis alone is enough: change several. {fault.advice}".strip()
    return Finding(
        code=fault.code,
        severity=fault.severity,
        summary=fault.what,
        advice=advice,
        evidence=tuple(Evidence("plan", f"would work: {text}") for text in would),
    )


def size_invalid(what: str, advice: str) -> Finding:
    """A finding about sizes that do not fit."""
    return Finding(code="group.size_invalid", severity="crash", summary=what, advice=advice)


def _either(sizes: tuple[int, ...]) -> str:
    *others, last = map(str, sizes)
    return f"{', '.join(others)} or {last}" if others else last
