"""The ranks that have arrived, by the keys that they leave in a TCPStore.

With gloo, a rank of the default group publishes its address when it enters (torch 2.10 to 2.13):
`/default_pg/0//cpu//0/<rank>` in a store of `env://` or `tcp://`, `/0//cpu//0/<rank>` in a store that
the user made, each below the user's own prefixes. A subgroup's keys are `…/0//<name>//cpu//0/<rank>`.
`distwatch.initialize` leaves `/distwatch/<attempt>/<worlds before>/<try>/rank/<rank>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_ADDRESS = re.compile(r"((?:/[^/]+)*?)(/default_pg)?/0//\w+//\d+/(\d{1,9})")
_WORD = re.compile(r"/distwatch/(\d{1,9})/(\d{1,9})/(\d{1,9})/rank/(\d{1,9})")


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The world whose ranks are looked for."""

    world_size: int | None = None
    attempt: int = 0
    """How many times the launcher has restarted the job."""
    number: int = 1
    """The number of this world in its processes."""
    own_store: bool = False
    """Whether the user passed the store, so that torch adds no prefix of its own."""
    kept_store: bool = False
    """Whether the store outlives an attempt, as the store of torchrun's agent does."""


def arrived_ranks(keys: Iterable[str], expected: Expected) -> tuple[tuple[int, ...], str]:
    """The ranks that have arrived, and why some may be missing from this list, if so."""
    if expected.number > 1:
        return (
            (),
            "it does not show which ranks have arrived: the keys of an earlier world are still in it",
        )
    names = list(keys)
    words = _by_words(names, expected)
    if expected.kept_store and expected.attempt:
        told = _by_attempt(names, expected.attempt)
        why = "the addresses of an earlier attempt are still in it: only distwatch's own keys count"
        return tuple(sorted(words | told)), "" if told else why
    return tuple(sorted(words | _by_addresses(names, expected))), ""


def _by_words(keys: list[str], expected: Expected) -> set[int]:
    """Ranks with keys of `distwatch.initialize`, of the newest try of this attempt's first world."""
    found = (_WORD.fullmatch(key) for key in keys)
    words = [tuple(map(int, match.groups())) for match in found if match]
    mine = [word for word in words if word[:2] == (expected.attempt, 0)]
    newest = max((word[2] for word in mine), default=None)
    return {word[3] for word in mine if word[2] == newest}


def _by_addresses(keys: list[str], expected: Expected) -> set[int]:
    if not expected.own_store:
        return _at("", keys) or _by_attempt(keys, expected.attempt)
    below: dict[str, set[int]] = {}
    for key in keys:
        match = _ADDRESS.fullmatch(key)
        if match and not match[2] and not match[1].startswith("/distwatch/"):
            below.setdefault(match[1], set()).add(int(match[3]))
    # Several prefixes mean several worlds, and nothing shows which one is meant.
    return next(iter(below.values())) if len(below) == 1 else set()


def _by_attempt(keys: list[str], attempt: int) -> set[int]:
    """Older torchruns give every attempt its own prefix."""
    return _at(f"/worker/attempt_{attempt}", keys)


def _at(prefix: str, keys: list[str]) -> set[int]:
    found = (_ADDRESS.fullmatch(key) for key in keys)
    return {int(match[3]) for match in found if match and match[2] and match[1] == prefix}
