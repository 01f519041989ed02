"""Events about what an observer did because of an incident: whom it told, ended or marked."""

from __future__ import annotations

from typing import Literal

from distwatch.state.event import Event


class RankAborted(Event, frozen=True, kw_only=True):
    """DISTWATCH_ON_HANG=abort: the observer has asked a culprit to end itself, or has ended it."""

    host: str
    """The host of the process."""
    process: str
    global_rank: int | None = None
    incident: int = 0
    code: str = ""
    summary: str = ""
    how: Literal["asked", "killed", "failed"] = "asked"
    why: str = ""
    """Why it was killed, or could not be."""


class NodeMarked(Event, frozen=True, kw_only=True):
    """DISTWATCH_ON_HANG=restart-node: a host that no job should get before somebody has looked at it."""

    host: str
    """The host of the reporting observer."""
    node: str
    incident: int
    code: str
    summary: str
    drained: str = ""
    """What came of the command of DISTWATCH_DRAIN; '' where there is none."""


class IncidentNotified(Event, frozen=True, kw_only=True):
    """DISTWATCH_NOTIFY was told of an incident, or could not be. A later observer must not tell it again."""

    host: str
    incident: int
    phase: Literal["new", "over"]
    how: str = ""
    """For `over`: recovered, ended, replaced."""
    code: str = ""
    culprit_ranks: tuple[int, ...] = ()
    delivered: bool = True
    """Whether every address has taken it."""
    to: str = ""
    """The addresses, without what may be secret; and, where one did not take it, why."""
