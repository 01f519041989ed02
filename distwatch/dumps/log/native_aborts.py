"""C++ exceptions that ended a process: torch's watchdog says so, else the C++ runtime (`terminate called`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distwatch.dumps.log.facts import Raised, Who
from distwatch.dumps.log.lines import Line
from distwatch.redaction import redact_text

TERMINATED = "terminate called after throwing an instance of"
_TYPE = re.compile(TERMINATED + r" '([\w:<>, ]{1,200})'")
_WHAT = re.compile(r"^\s*what\(\):\s+(.+)")
_WATCHDOG = re.compile(
    r"(?:watchdog thread terminated with exception|raised the following async exception): "
    r"(?:\[Rank \d+\] )?(?!\[?Rank|Watchdog)(.+)"
)
_PEER_GONE = re.compile(
    r"(?i)remote process exited|network error|remote error|system error|timeout|communicator was aborted"
)
_OF_STORE = re.compile(r"Dist(?:Network|Store|QueueEmpty)Error$")


class AbortReader:
    """The runtime writes the type on one line and the message on the next of the same writer."""

    def __init__(self) -> None:
        self._types: dict[Who, str] = {}

    def read(self, line: Line, time_ns: int) -> Iterator[Raised]:
        """The exception, once its message is read."""
        if (fatal := _WATCHDOG.search(line.text)) and "caught collective" not in fatal[1]:
            yield _raised(line.who, time_ns, "RuntimeError", fatal[1])
        if found := _TYPE.search(line.text):
            self._types[line.who] = found[1]
        elif (of := self._types.pop(line.who, "")) and (said := _WHAT.match(line.text)):
            yield _raised(line.who, time_ns, of, said[1])


def _raised(who: Who, time_ns: int, type_name: str, message: str) -> Raised:
    """A peer's or the store's end has torch's own name: it explains nothing but itself."""
    if _OF_STORE.search(type_name):
        type_name = f"torch.distributed.{type_name.rpartition(':')[2]}"
    elif type_name in ("RuntimeError", "c10::DistBackendError"):
        gone = _PEER_GONE.search(message)
        type_name = "torch.distributed.DistBackendError" if gone else "RuntimeError"
    message = redact_text(message)[:1000]
    return Raised(who=who, time_ns=time_ns, type_name=type_name, message=message, uncaught=True)
