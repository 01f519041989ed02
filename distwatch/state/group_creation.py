"""How far each rank is in the creation of a framework's groups, and which ranks hold up the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from distwatch.state.events import Site
from distwatch.state.finding import Finding
from distwatch.state.rank_sets import name_ranks


class CreationProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's `new_group` calls so far."""

    number: int = 0
    """Of its last call, from 1; 0: none yet."""
    inside: bool = False
    """Whether it is still in that call."""
    pg_desc: str = ""
    members: tuple[int, ...] | None = None
    """None: all ranks of the world."""
    site: Site | None = None


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """A group that some of its members wait for, and others have not begun to create."""

    call: CreationProgress
    entered: tuple[int, ...]
    absent: tuple[int, ...]

    @property
    def title(self) -> str:
        """The group's number, the framework's name for it, and its members."""
        named = f" {self.call.pg_desc!r}" if self.call.pg_desc else ""
        members = self.call.members
        who = "all ranks" if members is None else name_ranks(members)
        return f"new_group #{self.call.number}{named} ({who})"

    def sentence(self) -> str:
        """Which ranks have entered it, which have not, and where the first ones wait."""
        at = f" at {self.call.site}" if self.call.site else ""
        return (
            f"{name_ranks(self.absent)} never called {self.title}; "
            f"{name_ranks(self.entered, 'waits', 'wait')} in it{at}"
        )

    def finding(self, waiting: Iterable[int], places: str) -> Finding:
        """group.call_missing, as the ranks themselves can tell it.

        Args:
            waiting: every rank that is kept waiting, also in later groups.
            places: where the absent ranks are; '' if unknown.
        """
        return Finding(
            code="group.call_missing",
            culprit_ranks=self.absent,
            waiting_ranks=tuple(sorted({*waiting, *self.entered} - set(self.absent))),
            pg_desc=self.call.pg_desc or None,
            summary=f"{self.sentence()}. {places}" if places else self.sentence(),
            confidence=0.9,
        )


def incomplete_creation(
    progress: Mapping[int, CreationProgress], world_size: int
) -> Creation | None:
    """The first group that ranks wait in for others, which wait for nobody themselves.

    Ranks without an entry are not judged: nothing is known about their calls.
    """
    everybody = tuple(range(world_size))
    waiting = {rank: one for rank, one in progress.items() if one.inside}
    for number in sorted({one.number for one in waiting.values()}):
        inside = {rank: one for rank, one in waiting.items() if one.number == number}
        for call in inside.values():
            members = everybody if call.members is None else call.members
            absent = tuple(
                rank
                for rank in sorted(members)
                if rank in progress and rank not in waiting and progress[rank].number < number
            )
            if absent:
                entered = tuple(sorted(set(inside) & set(members)))
                return Creation(call=call, entered=entered, absent=absent)
    return None
