"""What an exception began with: the error that it quotes or was raised from, and on which rank that was."""

from __future__ import annotations

import re
from collections.abc import Mapping

from distwatch.diagnosis.facts.signals import first_line
from distwatch.state.events import ExceptionUncaught
from distwatch.state.model import Process

_QUOTED = "Traceback (most recent call last)"
_ERROR = re.compile(r"[A-Za-z_][\w.]*: \S")
_SAVED_TOGETHER = re.compile(r"\ACheckpointException ranks:dict_keys\(\[([\d, ]{1,2000})\]\)")
"""How torch.distributed.checkpoint names the members of its group that failed, on each member alike."""


def origin_of(error: ExceptionUncaught) -> str:
    """`TypeName: message` of the error in another process or before this one; '' for none.

    A data worker's error, and a checkpoint's of another rank, are quoted in the message, with their traceback.
    """
    _, found, quoted = error.message.rpartition(_QUOTED)
    lines = [line for line in quoted.splitlines() if _ERROR.match(line)] if found else []
    return lines[-1] if lines else error.cause


def began_with(error: ExceptionUncaught) -> str:
    """The same as the end of a sentence about the exception; '' where it began with itself."""
    origin = origin_of(error)
    return f"; it began with {first_line(origin)}" if origin else ""


def told_by_others(ended: Mapping[int, Process], world: int | None) -> frozenset[int]:
    """Ranks whose exception is the failure of another one, which a library raised on all that work together.

    Args:
        ended: by global rank.
        world: how many ranks there are, where that is known.
    """
    raisers: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[int, Process]] = {}
    for rank, process in ended.items():
        if process.exception and (found := _SAVED_TOGETHER.match(process.exception.message)):
            places = tuple(map(int, re.findall(r"\d+", found[1])))
            raisers.setdefault((places, _newest_group(process)), {})[rank] = process
    return frozenset(
        rank
        for (places, members), told in raisers.items()
        for rank in told.keys() - _failed(places, members, told, world)
    )


def _failed(
    places: tuple[int, ...],
    members: tuple[int, ...],
    told: Mapping[int, Process],
    world: int | None,
) -> set[int]:
    """The ranks at those places of the group that saved; all that were told, where that is not known."""
    if not members and len(told) == world:
        members = tuple(range(world))  # only the whole world has so many members
    failed = {members[place] for place in places if place < len(members)}
    is_known = told.keys() <= set(members) and failed and failed <= told.keys()
    return failed if is_known else set(told)


def _newest_group(process: Process) -> tuple[int, ...]:
    """The members of the group in which its newest call was; the library tells of failures by such a call."""
    operations = process.outside.operations
    group = process.groups.get(operations[-1].pg_name) if operations else None
    return group.members if group else ()
