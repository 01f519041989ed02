"""How far the observers of hosts have told of their processes, by this observer's clock."""

from __future__ import annotations

from distwatch.observer.daemon import Observer
from distwatch.state import events as ev


def note_heard(observer: Observer, host: str, known_ns: int | None) -> None:
    """Folds it as an event, so that viewers judge by it, too; it is in no journal.

    Args:
        known_ns: until when its newest values are known; None: nobody tells of them any more.
    """
    if (known := observer.state.hosts.get(host)) is None:
        return
    hearing = ev.Hearing(known_ns=known_ns, upto_ns=known.now_ns) if known_ns is not None else None
    if hearing != known.hearing:
        event = ev.HostHeard(host=host, hearing=hearing)
        observer.fold(observer.recording.header, 0, 0, event)
