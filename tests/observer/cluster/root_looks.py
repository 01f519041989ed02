"""Looks at roots, as a node's keeper brings them about, and waited for."""

from __future__ import annotations

import threading

from distwatch.observer.cluster.root_registry import Card
from distwatch.observer.cluster.roots import Roots


def looks() -> list[threading.Thread]:
    """Those that are under way."""
    return [one for one in threading.enumerate() if one.name == "distwatch root"]


def root_of(roots: Roots, name: str, began_ns: int = 0) -> Card:
    """The run's card after a look that begins now, however fresh the last one is."""
    for look in looks():
        look.join()
    if run := roots._runs.get(name):
        run.looked_at = 0.0
    roots.roots_of({name: began_ns})
    for look in looks():
        look.join()
    cards, problems = roots.roots_of({name: began_ns})
    assert not problems
    return cards[name]
