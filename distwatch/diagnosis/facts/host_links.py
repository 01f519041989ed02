"""Which hosts of a run are seen now, and which no longer are."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.outside_view import largest_job
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
    """Hosts that were seen and no longer are, by name; in a leaf's own view: the root.

    In a tree of roots a host is seen through any root that is itself seen.
    """
    links = [
        (host, peer, link) for host in state.hosts.values() for peer, link in host.links.items()
    ]
    over = {peer for _, peer, link in links if link.ended}
    found: dict[str, Unseen] = {}
    while True:
        before = len(found)
        reached = {peer for host, peer, link in links if link.linked and host.host not in found}
        for host, peer, link in links:
            # What an unseen host said of the root, which it reports by address, says nothing now.
            through = None if ":" in peer else found.get(host.host)
            if peer in reached or peer in found or link.ended or (link.linked and not through):
                continue
            if link.goes_to and peer in over:
                continue  # it has ended well where it was sent
            since_s = max(0.0, (host.now_ns - link.since_ns) / 1e9)
            if link.linked and through:
                found[peer] = Unseen(host=peer, since_s=through.since_s, why=through.why)
            else:
                found[peer] = Unseen(host=peer, since_s=since_s, why=link.why)
        if len(found) == before:
            return found


def root_above(state: RunState) -> str:
    """The address of a root that sees more than these hosts; '' where one of them is the run's root."""
    above = ""
    for host in state.hosts.values():
        if host.observers or host.links:
            # Other hosts are reported by name, the root by its address.
            links = host.links.items()
            above = next((peer for peer, link in links if ":" in peer and not link.ended), "")
            if not above:
                return ""
    return above


def host_count(state: RunState, job: Job | None = None) -> tuple[int, int]:
    """How many hosts with ranks are seen, and how many there should be."""
    job = job or largest_job(state)
    lost = unseen_hosts(state)
    names = {process.host for process in job.ranks.values()}
    on_each = max((p.identity.local_world_size or 0 for p in job.ranks.values()), default=0)
    expected = -(-job.world // on_each) if job.world and on_each else 0
    return len(names - lost.keys()), max(len(names), expected)
