"""What a row of the table of codes says."""

from __future__ import annotations

from typing import Literal

import msgspec

Situation = Literal["unmet", "unhosted", "lost"]
"""What a rank sees of a store: it cannot reach it, cannot host it, or had it and lost it."""


class Family(msgspec.Struct, frozen=True, gc=False):
    """The first word of a code."""

    name: str
    title: str
    forms_world: bool = False
    """Whether a finding of it can say why a world does not form."""
    has_place: bool = False
    """Whether it blames a rank for where it is: then its place in a layout is worth a word."""


FAMILIES = {
    family.name: family
    for family in (
        Family("rendezvous", "The ranks do not meet", forms_world=True),
        Family("group", "Process groups that do not fit", forms_world=True),
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
    """One code of the contract: what it means, and how it stands to other findings."""

    name: str
    meaning: str
    advice: str
    """What to do where a finding says nothing better."""
    ends_rank: bool = False
    """A rank's process has ended."""
    tells_exception: bool = False
    """As a crash, it says better what the exception of its culprits says."""
    own_call: bool = False
    """A process's own call or environment is wrong, and it fails by that alone."""
    mismatch: bool = False
    """Calls do not fit, and the backend may abort those who made them: that explains their ends."""
    persists: bool = False
    """It keeps the job from going on whoever lives: nobody's death can have caused it."""
    absent: bool = False
    """Its culprits are no processes."""
    partial_view: bool = False
    """One process or host can only guess it: whoever sees all ranks knows better."""
    native_stack: bool = False
    """Python's frames may not say why: the native ones help."""
    explains_store: tuple[Situation, ...] = ()
    """What a rank sees of the store where this is the reason."""
