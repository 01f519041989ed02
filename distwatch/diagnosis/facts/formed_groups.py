"""Process groups beside the default world in which all members have met.

Where all members are ranks of one world, the group is one of the groups that those ranks hold. Where they are of
several worlds, as in weight sync from a trainer to its engines, it is a small job of its own, whose ranks are
the members' numbers in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.extra_groups import Meeting, everybody, named_meetings, open_meetings
from distwatch.state import events as ev
from distwatch.state.model import Group, Process, RunState


class FormedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One group that all its members have joined, in the order of their numbers there."""

    group: Group
    """Without members: those have other numbers in each world."""
    members: tuple[Process, ...]


def with_formed_groups(ranks: dict[int, Process], state: RunState) -> dict[int, Process]:
    """The ranks of a world, in whose groups the members of those are named that none but its ranks are in."""
    if not any(process.extra_groups for process in ranks.values()):
        return ranks
    rank_of = {process.key: rank for rank, process in ranks.items()}
    told = dict(ranks)
    for formed in formed_groups(state):
        if all(process.key in rank_of for process in formed.members):
            members = tuple(rank_of[process.key] for process in formed.members)
            for rank in members:
                told[rank] = _holding(told[rank], formed.group, members)
    return told


def joint_worlds(state: RunState, world: Iterable[Process]) -> list[tuple[Process, ...]]:
    """The groups of these processes with members elsewhere, each as a world of its members alone."""
    keys = {process.key for process in world if process.extra_groups}
    return [
        tuple(_member(process, number, formed) for number, process in enumerate(formed.members))
        for formed in (formed_groups(state) if keys else ())
        if 0 < sum(process.key in keys for process in formed.members) < len(formed.members)
    ]


def formed_groups(state: RunState) -> list[FormedGroup]:
    """The groups with a name that all members have joined; one that was formed anew counts once."""
    processes = [process for process in everybody(state) if process.extra_groups]
    return [
        formed
        for meeting in named_meetings(state, processes)
        if (formed := _formed(meeting, state))
    ]


def _formed(meeting: Meeting, state: RunState) -> FormedGroup | None:
    """None where it has not formed."""
    come = meeting.come
    whole = len(meeting.joined) == meeting.size and come.keys() == set(range(meeting.size))
    if not whole or not all(_holds(process, one) for process, one in meeting.joined):
        return None
    name = meeting.joined[0][1].name
    held = (p.groups[name] for p in come.values() if name in p.groups and p.groups[name].world)
    group = next(held, None) or _unlisted(meeting, name)
    members = tuple(come[number] for number in range(meeting.size))
    # Looks from outside may have completed a process since; the state has the newest one of it.
    return FormedGroup(group=group, members=tuple(state.processes.get(p.key, p) for p in members))


def _unlisted(meeting: Meeting, name: str) -> Group:
    """As torch would list it, which does so from the first call of Python in it."""
    endpoint = next((one.endpoint for _, one in meeting.joined if one.endpoint), "a store")
    return Group(
        pg_name=name, pg_desc="", backend="", members=(), timeout_s=None, site=None, world=endpoint
    )


def _holds(process: Process, one: ev.ExtraGroupJoined) -> bool:
    """Whether it has come to the end of this rendezvous, and to no later one of that name."""
    newest = max(o.number for o in process.extra_groups.values() if o.name == one.name)
    waits = any(other is one for other, _ in open_meetings(process))
    return bool(one.name) and one.number == newest and not waits


def _holding(process: Process, group: Group, members: tuple[int, ...]) -> Process:
    """The process, whose group has these members; one that has called nothing in it does not list it."""
    own = process.groups.get(group.pg_name)
    told = copy.copy(process)
    known = own if own is not None and own.world else group
    told.groups = {
        **process.groups,
        group.pg_name: msgspec.structs.replace(
            known, members=members, destroyed_ns=own.destroyed_ns if own is not None else None
        ),
    }
    return told


def _member(process: Process, number: int, formed: FormedGroup) -> Process:
    """The process as the member of that group alone, whose rank is its number there."""
    size = len(formed.members)
    told = _holding(process, formed.group, tuple(range(size)))
    told.groups = {formed.group.pg_name: told.groups[formed.group.pg_name]}
    told.planned = None
    told.initialized = True
    told.confirmed = ev.IdentityConfirmed(global_rank=number, world_size=size)
    told.extra_groups = {}
    told.layouts, told.meshes = {}, []
    return told
