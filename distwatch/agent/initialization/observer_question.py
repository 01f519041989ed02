"""A rank asks the observer of its node why its world does not form."""

from __future__ import annotations

import logging

import msgspec

from distwatch.observer_socket import ask_observer
from distwatch.runfolder import RunFolder
from distwatch.state.verdict import Verdict

log = logging.getLogger("distwatch")


def ask_verdict(folder: RunFolder, timeout_s: float) -> Verdict | None:
    """The verdict of this moment, with stacks of ranks that wait; None where no observer answers.

    Blocks for at most `timeout_s`.
    """
    try:
        answer = ask_observer(folder, {"want": "verdict"}, timeout_s)
        return msgspec.msgpack.decode(answer, type=Verdict)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        log.info("distwatch: the observer gave no verdict: %s", error)
        return None
