"""What a keeper is told, and what it answers."""

from __future__ import annotations

import msgspec

from distwatch.observer.cluster.root_registry import Card
from distwatch.state.identity import Identity


class Task(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A keeper's task, on stdin: its run, and either to make the root or the root's card.

    Attributes:
        job: a job without distwatch: the keeper has an observer look at its ranks from outside.
        while_attached: the keeper stays as long as its stdin is open; else until the run has ended there.
    """

    run: str
    folders: str
    listen: str = ""
    card: Card | None = None
    job: Identity | None = None
    while_attached: bool = False


class HostJoined(msgspec.Struct, kw_only=True):
    """A keeper's answer.

    Attributes:
        host: the user's name for it.
        called: its own name for itself.
        told: what its observer is now, or what it waits for.
        failed: why there is no keeper; '' if there is one.
        card: the root's card, from the root's host.
    """

    host: str = ""
    called: str = ""
    pid: int = 0
    told: str = ""
    failed: str = ""
    card: Card | None = None
