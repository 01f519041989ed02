"""Which hosts of a run send to a root of their rack, and who that is. Pure: `Root` carries it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

TREE_FROM = 1024
"""From so many hosts on they are put into racks without being told."""
RACK_HOSTS = 128
HOSTS_MOST = 1 << 20
"""No limit: a named rack is as large as it is."""
RACK_NAME_MOST = 100


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A host that is linked to the root of the run.

    Attributes:
        rack: the name of its rack, where it was given one.
        place: where it takes other hosts as the root of a rack; '' if it does not.
        holds: how many other hosts send to it.
        unreachable: a rack's root that it could not reach.
        unable: it could not become the root of a rack.
        invited: it has been told to become one, and has not yet come back as one.
        goes_to: the root of its rack, to which it has been sent.
    """

    host: str
    rack: str = ""
    place: str = ""
    holds: int = 0
    unreachable: str = ""
    unable: bool = False
    invited: bool = False
    goes_to: str = ""


class Step(msgspec.Struct, frozen=True):
    """The host sends to the rack's root at `place` from now on; with '' it becomes one itself."""

    host: str
    place: str = ""


class Grouping:
    """Remembers the named racks: one that has lost its root, and has one host left here, is still a rack."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def next_steps(self, members: Iterable[Member]) -> list[Step]:
        """What to tell the hosts that are linked now."""
        racks: dict[str, list[Member]] = {}
        for member in sorted(members, key=lambda one: one.host):
            racks.setdefault(member.rack, []).append(member)
        unnamed = racks.pop("", [])
        steps: list[Step] = []
        for name, rack in racks.items():
            seen = self._seen.setdefault(name, set())
            seen.update(one.host for one in rack)
            if len(seen) > 1:
                steps += _fill(rack, most=HOSTS_MOST)
        if sum(1 + one.holds for one in unnamed) >= TREE_FROM:
            steps += _fill(unnamed, most=RACK_HOSTS)
        return steps


def _fill(members: Sequence[Member], most: int) -> Iterator[Step]:
    """Each host goes to a root of `most` hosts in all, or becomes one where these have no room."""
    room = {one.place: most - 1 - one.holds for one in members if one.place}
    for one in members:
        if one.goes_to in room:
            room[one.goes_to] -= 1
    coming = sum(one.invited for one in members) * (most - 1)
    for one in members:
        if one.place or one.invited or one.goes_to:
            continue
        place = next((p for p, left in room.items() if left > 0 and p != one.unreachable), None)
        if place is not None:
            room[place] -= 1
            yield Step(one.host, place)
        elif coming > 0:
            coming -= 1
        elif not one.unable:
            coming += most - 1
            yield Step(one.host)
