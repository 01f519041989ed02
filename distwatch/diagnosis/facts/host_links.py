"""Which hosts of a run are seen now, and which no longer are."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.state.model import RunState
from distwatch.state.quantities import seconds


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """A host whose observer no longer reports to the run's root."""

    host: str
    since_s: float
    why: str

    @property
    def text(self) -> str:
        return f"last seen {seconds(self.since_s)} ago: {self.why or 'its link is lost'}"


def unseen_hosts(state: RunState) -> dict[str, Unseen]:
    """Hosts that were seen and no longer are, by name; in a leaf's own view: the root."""
    found: dict[str, Unseen] = {}
    for host in state.hosts.values():
        for peer, link in host.links.items():
            if not link.linked and not link.ended:
                since_s = max(0.0, (host.now_ns - link.since_ns) / 1e9)
                found[peer] = Unseen(host=peer, since_s=since_s, why=link.why)
    return found


def host_count(state: RunState, job: Job | None = None) -> tuple[int, int]:
    """How many hosts with ranks are seen, and how many there should be."""
    job = job or Job(state)
    lost = unseen_hosts(state)
    names = {process.host for process in job.ranks.values()}
    on_each = max((p.identity.local_world_size or 0 for p in job.ranks.values()), default=0)
    expected = -(-job.world // on_each) if job.world and on_each else 0
    return len(names - lost.keys()), max(len(names), expected)
