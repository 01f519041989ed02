"""What stands against a plan, before it becomes a finding. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from distwatch.state.finding import Evidence, Finding, Severity

_WORDS = {"world": "a world of", "expert_tensor": "expert tensor"}


class Fault(NamedTuple):
    """One thing that is wrong. `axes` are those that would have to change; `sizes`: to what."""

    what: str
    advice: str = ""
    severity: Severity = "crash"
    axes: tuple[str, ...] = ()
    code: str = "group.size_invalid"
    sizes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def with_sizes(self, working: Mapping[str, tuple[int, ...]]) -> Fault:
        """The same fault with the sizes of its axes that would work."""
        fitting = {axis: sizes for axis, sizes in working.items() if axis in (*self.axes, "world")}
        return self._replace(sizes=tuple(fitting.items()))


def finding_of(fault: Fault) -> Finding:
    """The finding of a fault."""
    would = [
        f"{_WORDS.get(axis, axis)} {' or '.join(map(str, sizes))}" for axis, sizes in fault.sizes
    ]
    advice = fault.advice
    if fault.axes and fault.severity != "info":
        mend = f"It would work with {', or with '.join(would)}." if would else "Change several sizes: no other size of one axis alone would work."  # fmt: skip
        advice = f"{mend} {fault.advice}".strip()
    return Finding(
        code=fault.code,
        severity=fault.severity,
        summary=fault.what,
        advice=advice,
        evidence=tuple(Evidence(source="plan", text=f"would work: {text}") for text in would),
    )
