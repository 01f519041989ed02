"""What kubectl prints about pods, pasted between their logs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distwatch.dumps.log.facts import Ended, Fact, Who

_ROW = re.compile(r"(?P<pod>[a-z0-9][a-z0-9.-]*[a-z0-9]) +\d+/\d+ +OOMKilled\b")
_DESCRIBE = re.compile(r"(?:describe pods?/?|get pods?/?) ?([a-z0-9][a-z0-9.-]*[a-z0-9])")
_NAME = re.compile(r"^Name:\s+([a-z0-9][a-z0-9.-]*[a-z0-9])\s*$")
_REASON = re.compile(r"^\s*Reason:\s+(OOMKilled|Error|Evicted|ContainerStatusUnknown)\b")
_CODE = re.compile(r"^\s*(?:Exit Code|exitCode):\s+(\d{1,3})\b")


class PodReader:
    """Reads `kubectl get pods` and `kubectl describe pod`, line by line."""

    def __init__(self) -> None:
        self._pod = ""
        self._reason = ""

    def read(self, text: str, time_ns: int) -> Iterator[Fact]:
        """The end of a pod's container, where the line tells of one."""
        if named := _NAME.match(text) or (text.startswith("$") and _DESCRIBE.search(text)):
            self._pod, self._reason = named[1], ""
        elif row := _ROW.match(text):
            yield _oom(row["pod"], time_ns)
        elif reason := _REASON.match(text):
            self._reason = reason[1]
            if self._pod and self._reason == "OOMKilled":
                yield _oom(self._pod, time_ns)
        elif (code := _CODE.match(text)) and self._pod and self._reason != "OOMKilled":
            yield _ended(self._pod, time_ns, int(code[1]))


def _oom(pod: str, time_ns: int) -> Ended:
    return Ended(
        who=Who(labels=(f"pod:{pod}",), attempt=-1),
        time_ns=time_ns,
        signal=9,
        oom=f"Kubernetes: pod {pod} was OOMKilled",
        how="kubectl shows it",
    )


def _ended(pod: str, time_ns: int, code: int) -> Ended:
    who = Who(labels=(f"pod:{pod}",), attempt=-1)
    how = f"kubectl shows exit code {code} of {pod}"
    if code > 128:
        return Ended(who=who, time_ns=time_ns, signal=code - 128, how=how)
    return Ended(who=who, time_ns=time_ns, exit_code=code, how=how)
