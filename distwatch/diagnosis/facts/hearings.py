"""How old what is known of a rank is, where that comes from its host's observer over a link."""

from __future__ import annotations

from distwatch.state.model import Process, RunState

OUTDATED = 0.5
"""Of a wait: of whoever nothing is known for longer, that may have gone on, too."""
KNOWN = 0.5
"""Of a deadline: for how long somebody must be known not to have come. It is no share of the wait itself, which
goes on while news is late: a verdict that stood would be taken back because nothing more is heard."""


class Hearings:
    """How far the observers of all hosts have told, compared with each other.

    A root that is busy, or a slow network, delivers one host's values later than another's. Whoever is
    late in that way would be blamed for not being where others are.
    """

    def __init__(self, state: RunState) -> None:
        heard = {name: host.hearing for name, host in state.hosts.items()}
        known = {name: hearing.known_ns for name, hearing in heard.items() if hearing is not None}
        newest_ns = max(known.values(), default=0)
        self._behind_s = {name: (newest_ns - at_ns) / 1e9 for name, at_ns in known.items()}

    def behind_s(self, process: Process) -> float:
        """By how much what is known of it is older than what is known of others."""
        return self._behind_s.get(process.host, 0.0)

    def may_have_gone_on(self, process: Process | None, waited_s: float, deadline_s: float) -> bool:
        """Whether a rank is known for too little of a wait of others not to have come to it.

        Args:
            waited_s: how long the others have waited, by the newest that is known of them.
            deadline_s: how long they may wait.
        """
        if process is None:
            return False
        known_s = waited_s - self.behind_s(process)
        return known_s < KNOWN * min(waited_s, deadline_s)
