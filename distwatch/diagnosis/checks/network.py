"""network.partition, network.link_error: the network between the ranks drops their data."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.collectives.entries import calls_differ
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.device_faults import title_of
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.state.events import Connection, PortErrorSeen
from distwatch.state.finding import Evidence, Finding
from distwatch.state.host import Host, Stamp
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks

RETRANSMITS = 4
"""With Linux's doubling timer from 0.2 s: about 3 s without an answer."""
SETTLED_S = 2.0
_FAILED_TRANSFERS = ("link_downed", "local_ack_timeout_err", "req_transport_retries_exceeded")
"""Counters of an RDMA port: its link was lost, or the other side did not answer."""
_SHOWN = 8


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's connection to an address that no longer answers."""

    global_rank: int
    connection: Connection
    peers: tuple[int, ...]
    """The ranks that have that address; empty where none is known."""

    @property
    def peer_address(self) -> str:
        return self.connection.peer.rpartition(":")[0]

    @property
    def own_address(self) -> str:
        return self.connection.local.rpartition(":")[0]


class Partition:
    """Connections between ranks whose data the kernel sends again and again without an answer."""

    def find(self, case: Case) -> Iterable[Finding]:
        stuck = stuck_connections(case)
        waits = [view for view in case.groups if view.in_flight and view.waited_s >= SETTLED_S]
        waits_for_peers = case.graph.longest_s("p2p") >= SETTLED_S
        if stuck and (waits or waits_for_peers or case.waiting):
            yield self._finding(case, stuck, waits)

    def _finding(self, case: Case, stuck: list[Stuck], waits: list[GroupView]) -> Finding:
        pairs = sorted({(one.own_address, one.peer_address) for one in stuck})
        names = _names(case, stuck)
        cut = sorted({tuple(sorted((names[a], names[b]))) for a, b in pairs})
        listed = "; ".join(f"{a} and {b}" for a, b in cut[:4])
        view = max(waits, key=lambda one: one.waited_s, default=None)
        affected = {one.global_rank for one in stuck} | {r for one in stuck for r in one.peers}
        waiting = set(view.members) if view else affected
        worst = max(one.connection.retransmits for one in stuck)
        odd = _one_side(stuck)
        where = f"; {view.call} has waited for {seconds(view.waited_s)}" if view else ""
        return Finding(
            code="network.partition",
            culprit_ranks=odd,
            waiting_ranks=tuple(sorted((waiting | affected) - set(odd))),
            pg_name=view.pg_name if view else None,
            pg_desc=(view.pg_desc or None) if view else None,
            summary=f"{listed} no longer reach each other: data was sent up to {worst} times without an "
            f"answer{where}",
            evidence=tuple(
                Evidence(
                    "proc",
                    f"rank {one.global_rank}: {one.connection.local} → {one.connection.peer} "
                    f"{one.connection.state}, {one.connection.unacknowledged_bytes} bytes unacknowledged, "
                    f"sent again {one.connection.retransmits} times",
                    one.global_rank,
                )
                for one in stuck[:_SHOWN]
            ),
            confidence=0.9 if all(one.peers for one in stuck) else 0.7,
        )


class NobodyMissing:
    """collective.device_behind of nobody: all have entered, nothing differs, and the call does not complete.

    That is no `network.partition`: no connection shows that hosts do not reach each other.
    """

    def find(self, case: Case) -> Iterable[Finding]:
        for view in case.groups:
            everyone = view.in_flight and view.overdue and not view.missing
            if not everyone or view.timed_out:
                continue
            if view.on_device and len(view.members) > 1:
                continue  # what runs on devices is judged by their queues
            if len(view.members) == 1:
                yield self._alone(view)
                continue
            if not all(self._runs(case, rank) for rank in view.members) or calls_differ(case, view):
                continue
            inside = tuple(r for r in view.members if view.progress[r].completed < view.seq)
            where = "any of them" if inside == view.members else name_ranks(inside)
            yield Finding(
                code="collective.device_behind",
                waiting_ranks=inside,
                pg_name=view.pg_name,
                pg_desc=view.pg_desc or None,
                summary=f"all of {name_ranks(view.members)} have entered {view.call}, and it has not completed "
                f"on {where} for {seconds(view.waited_s)}; their calls do not differ, and no rank can be named",
                advice="Look at the devices and at the network between the ranks' hosts (`dmesg`, Xid errors, "
                "`ibstat`); distwatch saw no connection without an answer.",
                evidence=tuple(case.place(rank) for rank in view.members[:_SHOWN]),
                confidence=0.4,
            )

    def _alone(self, view: GroupView) -> Finding:
        """A group of one rank never waits: it has members that nobody reported."""
        return Finding(
            code="collective.rank_missing",
            waiting_ranks=view.members,
            pg_name=view.pg_name,
            pg_desc=view.pg_desc or None,
            summary=f"{name_ranks(view.members, 'has', 'have')} waited in {view.call} for "
            f"{seconds(view.waited_s)}; the other members of that group were not observed",
            advice="Find the other members of this group in the code: one of them has not made this call.",
            confidence=0.4,
        )

    def _runs(self, case: Case, rank: int) -> bool:
        process = case.job.ranks.get(rank)
        if process is None or process.ended_ns is not None or case.job.is_frozen(process):
            return False
        return case.job.kernel_state(process) not in ("T", "t", "D")


def _of_ports(case: Case, host: Host) -> Iterable[tuple[Stamp, PortErrorSeen]]:
    """What the RDMA ports of a host show, compared with the observer's first look at them."""
    for port in host.ports.ports if host.ports else ():
        down = port.was_up and bool(port.state) and not port.state.startswith("ACTIVE")
        failed = [name for name in _FAILED_TRANSFERS if name in port.grown]
        # Counters grow in sound networks, too: alone they count only where no rank is missing.
        if not down and not (failed and _is_complete(case)):
            continue
        grown = [f"{name} +{number}" for name, number in port.grown.items()]
        state = [f"it was up, and now is {port.state}"] if down else []
        text = "; ".join([*state, *grown])
        error = PortErrorSeen(host=host.host, port=port.name, text=text, decides=down)
        yield host.stamps["ports"], error


def _of_links(case: Case, host: Host) -> Iterable[tuple[Stamp, PortErrorSeen]]:
    """NVLinks that had to be trained again. What a sound link repeats now and then is no error."""
    for device in host.devices.devices if host.devices else ():
        counted = device.link_errors
        if set(counted) <= {"replays"} or not _is_complete(case):
            continue
        text = "; ".join(f"NVLink {word} +{number}" for word, number in counted.items())
        port = f"{title_of(device)} on {host.host}"
        error = PortErrorSeen(host=host.host, port=port, text=text, decides=False)
        yield host.stamps["devices"], error


def _is_complete(case: Case) -> bool:
    """Whether all members have come to the overdue calls."""
    overdue = [view for view in case.groups if view.in_flight and view.overdue]
    return bool(overdue) and not any(view.missing for view in overdue)


def stuck_connections(case: Case) -> list[Stuck]:
    """Connections to other hosts of the job that get no answer, the worst first."""
    owners: dict[str, set[int]] = {}
    for rank, process in case.job.ranks.items():
        seen = process.outside.connections
        for address in seen.addresses if seen else ():
            owners.setdefault(address, set()).add(rank)
    found: list[Stuck] = []
    # The addresses of ranks on hosts that no observer sees are not known either.
    unseen = len(case.job.ranks) < (case.job.world or 0)
    for rank, process in case.job.ranks.items():
        seen = process.outside.connections
        if process.ended_ns is not None or seen is None:
            continue
        for connection in seen.stuck:
            peers = owners.get(connection.peer.rpartition(":")[0], set())
            if connection.retransmits >= RETRANSMITS and (peers or unseen):
                found.append(
                    Stuck(global_rank=rank, connection=connection, peers=tuple(sorted(peers)))
                )
    return sorted(found, key=lambda one: (-one.connection.retransmits, one.global_rank))


def _names(case: Case, stuck: list[Stuck]) -> dict[str, str]:
    """`10.0.0.2 (ranks 2-3)` by address."""
    ranks: dict[str, set[int]] = {}
    for one in stuck:
        ranks.setdefault(one.own_address, set()).add(one.global_rank)
        ranks.setdefault(one.peer_address, set()).update(one.peers)
    return {
        address: f"{address} ({name_ranks(held)})"
        if held
        else f"{address} (ranks not seen from here)"
        for address, held in ranks.items()
    }


def _one_side(stuck: list[Stuck]) -> tuple[int, ...]:
    """The ranks of the one address that several others no longer reach; () where either side may be at fault."""
    lost: dict[str, set[str]] = {}
    ranks: dict[str, set[int]] = {}
    for one in stuck:
        lost.setdefault(one.own_address, set()).add(one.peer_address)
        lost.setdefault(one.peer_address, set()).add(one.own_address)
        ranks.setdefault(one.own_address, set()).add(one.global_rank)
        ranks.setdefault(one.peer_address, set()).update(one.peers)
    most = max(len(others) for others in lost.values())
    alone = [address for address, others in lost.items() if len(others) == most]
    return tuple(sorted(ranks[alone[0]])) if most > 1 and len(alone) == 1 else ()


class LinkFailed:
    """network.link_error: a port of the network between the ranks failed, and ranks lost or wait for each other."""

    def find(self, case: Case) -> Iterable[Finding]:
        hosts = [host for name, host in case.state.hosts.items() if case.job.ranks_on(name)]
        errors = [error for host in hosts for error in host.port_errors.values()]
        errors += [error for host in hosts for error in _of_ports(case, host)]
        errors += [error for host in hosts for error in _of_links(case, host)]
        errors.sort(key=lambda error: (not error[1].decides, error[0]))
        lost = set(case.deaths.victims)
        lost |= {wait.global_rank for wait in case.job.waits if wait.overdue}
        if not errors or not lost:
            return
        decides = errors[0][1].decides
        if not decides and case.deaths.own:
            return  # Whoever talks to a rank that has ended sees the same errors.
        yield self._finding(case, [event for _, event in errors], lost, decides)

    def _finding(
        self, case: Case, errors: list[PortErrorSeen], lost: set[int], decides: bool
    ) -> Finding:
        ports = list(dict.fromkeys(error.port for error in errors if error.port))
        named = f" ({', '.join(ports[:_SHOWN])})" if ports else ""
        ranks = {process.key: rank for rank, process in case.job.ranks.items()}
        return Finding(
            code="network.link_error",
            severity="crash" if case.deaths.victims else "hang",
            waiting_ranks=tuple(sorted(lost)),
            summary=f"the network between the ranks reports errors at a port{named}: "
            f"{errors[0].text[:160]}; {name_ranks(lost, 'has', 'have')} lost or waited for the others",
            evidence=tuple(
                Evidence(
                    "proc",
                    f"{error.port or error.host}: {error.text}",
                    ranks.get(error.process or ""),
                )
                for error in errors[:_SHOWN]
            ),
            confidence=0.9 if decides else 0.6,
        )
