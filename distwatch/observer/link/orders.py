"""Orders of `distwatch up` to an observer of this node, over the observer's own socket."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.observer_socket import ask_observer
from distwatch.runfolder import RunFolder

ANSWER_WITHIN_S = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become the root, listening there (port 0: any), or a leaf of the root there."""

    part: Literal["root", "leaf"]
    place: str
    token: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What an observer is: root, leaf, or neither (''); and why it did not obey."""

    part: str
    place: str
    why_not: str = ""


class OrderFailed(Exception):
    """The observer did not answer; the text says why."""


def give_order(folder: RunFolder, order: Order) -> Part:
    """Gives the run's observer on this node an order. Blocks for ANSWER_WITHIN_S at most.

    Raises:
        OrderFailed: there is no observer, or it does not answer.
    """
    request = {"want": "part", "order": msgspec.to_builtins(order)}
    try:
        answer = ask_observer(folder, request, ANSWER_WITHIN_S)
        return msgspec.msgpack.decode(answer, type=Part)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise OrderFailed(f"the observer of {folder.run_id} does not answer: {error}") from error
