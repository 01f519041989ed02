"""What a Ray cluster says about the run's actors, next to what was seen of their processes."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.state.host import Host
from distwatch.state.model import Process, RunState
from distwatch.state.ray_events import RayActorSeen, RayGroupSeen, RayNodeSeen
from distwatch.state.ray_tables import RayTables


class RayView:
    """Read-only questions about one look at the cluster's tables; empty where nobody looked.

    Attributes:
        actors: those of jobs that continue, by id; all of them where several had one rank.
        groups: their placement groups.
        nodes: all nodes of the cluster, by id, including dead ones.
    """

    def __init__(self, state: RunState) -> None:
        host = _newest(state.hosts.values())
        tables = host.ray if host else RayTables()
        ended = {job.job_id for job in tables.jobs.values() if job.ended}
        self._looked_ns = tables.looked_ns
        self.address = tables.looked.address if tables.looked else ""
        self.nodes: dict[str, RayNodeSeen] = dict(sorted(tables.nodes.items()))
        self.actors: dict[str, RayActorSeen] = {
            key: actor for key, actor in sorted(tables.actors.items()) if actor.job_id not in ended
        }
        self.groups: dict[str, RayGroupSeen] = {
            key: group for key, group in sorted(tables.groups.items()) if group.job_id not in ended
        }
        self._by_pid = {
            (self._host_name(actor.node_id), actor.pid): actor
            for actor in self.actors.values()
            if actor.pid
        }

    def waited_s(self, row: RayActorSeen | RayGroupSeen) -> float:
        """How long it was seen in its state, up to the newest look."""
        return max(0.0, (self._looked_ns - row.since_ns) / 1e9)

    def actor_of(self, process: Process) -> RayActorSeen | None:
        """The actor that lives, or lived, in a process."""
        if process.worker is not None:
            return self.actors.get(process.worker.actor_id)
        return self._by_pid.get((process.host, process.pid))

    def own_row(self, process: Process) -> RayActorSeen | None:
        """The same, where this process is the actor's newest worker: what ended one, ended both."""
        actor = self.actor_of(process)
        if actor is None or (process.worker and process.worker.worker_id != actor.worker_id):
            return None
        return actor

    def node_of(self, process: Process) -> RayNodeSeen | None:
        """The node that a process was placed on."""
        if process.worker is not None:
            return self.nodes.get(process.worker.node_id)
        actor = self.actor_of(process)
        return self.nodes.get(actor.node_id) if actor else None

    def living_nodes(self) -> list[RayNodeSeen]:
        """Nodes that Ray has not declared dead."""
        return [node for node in self.nodes.values() if node.alive]

    def node_text(self, node_id: str) -> str:
        """`node1 (10.0.0.1)`; nodes on one host also get their ids."""
        node = self.nodes.get(node_id)
        if node is None:
            return f"node {node_id[:12]}"
        twins = [other for other in self.nodes.values() if other.host_name == node.host_name]
        mark = f", node {node_id[:12]}" if len(twins) > 1 else ""
        return f"{node.host_name or node.address} ({node.address}{mark})"

    def _host_name(self, node_id: str) -> str:
        node = self.nodes.get(node_id)
        return node.host_name if node else ""


def actor_title(actor: RayActorSeen) -> str:
    """`Trainer "t0"`."""
    name = f' "{actor.name}"' if actor.name else ""
    return f"{actor.class_name.rpartition('.')[2] or 'actor'}{name}"


def titles(actors: Iterable[RayActorSeen], most: int = 3) -> str:
    """`Trainer "t0", Trainer "t1" and 6 more`."""
    told = [actor_title(actor) for actor in actors]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more


def _newest(hosts: Iterable[Host]) -> Host | None:
    """The host whose observer read the tables last: only the wall clock compares hosts."""
    looked = [host for host in hosts if host.ray.looked is not None]
    return max(looked, key=lambda h: (h.ray.looked_ns + h.wall_offset_ns, h.host), default=None)
