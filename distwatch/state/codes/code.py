"""The row of the table of codes."""

from __future__ import annotations

from typing import Literal

import msgspec

Situation = Literal["unmet", "unhosted", "lost"]
"""What a rank observes of a store: it cannot reach it, cannot host it, or has lost it."""


class Family(msgspec.Struct, frozen=True, gc=False):
    """The first word of a code."""

    name: str
    title: str
    forms_world: bool = False
    """Whether a finding of this family can explain why a world does not form."""
    by_store: bool = False
    """Whether it rests on who came to the store, whatever host a rank is on."""
    has_place: bool = False
    """Whether it blames a rank for where it is: then the rank's place in a layout helps the reader."""


FAMILIES = {
    family.name: family
    for family in (
        Family("rendezvous", "The ranks cannot form a world", forms_world=True, by_store=True),
        Family("group", "Process groups that do not match", forms_world=True),
        Family("process", "A process", forms_world=True, has_place=True),
        Family("collective", "A collective", has_place=True),
        Family("p2p", "Send and recv", has_place=True),
        Family("load", "A model load", has_place=True),
        Family("checkpoint", "A checkpoint", has_place=True),
        Family("device", "A device", has_place=True),
        Family("network", "The network", has_place=True),
    )
}


class Code(msgspec.Struct, frozen=True, gc=False):
    """One code of the contract: its meaning, and how it relates to other findings."""

    name: str
    meaning: str
    advice: str
    """What to do, unless a finding has better advice; `[that rank|those ranks]` agree with the culprits."""
    ends_rank: bool = False
    """A rank's process has ended."""
    by_signal: bool = False
    """A signal ended it: the abort that a mismatch brings about looks the same."""
    claims_rank: bool = False
    """A process came under a wrong rank, so the rank that it should have is missing."""
    compares: bool = False
    """Its evidence compares two sides, and the summary is hard to follow without it."""
    tells_exception: bool = False
    """As a crash, it explains more than its culprits' exception."""
    own_call: bool = False
    """A process's own call or environment is wrong, and fails without any other cause."""
    mismatch: bool = False
    """Calls do not match, and the backend may abort the ranks that made them: that explains their ends."""
    persists: bool = False
    """It stops the job even if all ranks are alive, so no rank's death can have caused it."""
    absent: bool = False
    """Its culprits have no process."""
    partial_view: bool = False
    """A single process or host can only guess it; a view of all ranks is more reliable."""
    is_setup: bool = False
    """As a warning it says how the job was set up: no rank's hang or death has caused it."""
    lateness: bool = False
    """As a warning it says that the run is slow, not stuck."""
    lies_in_code: bool = False
    """As a warning it says that the ranks take two ways through their code: the source shows why."""
    needs_standstill: bool = False
    """Of a rank that still moves something it is a warning: the rank is slow, not stuck."""
    native_stack: bool = False
    """Python's frames may not show the reason: native frames help."""
    explains_store: tuple[Situation, ...] = ()
    """What a rank observes of the store when this is the cause."""
