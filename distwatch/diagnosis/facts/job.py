"""The job as diagnosis sees it: the newest process of each rank, and which ranks wait in what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from distwatch.diagnosis.facts.barrier_calls import unfinished_barrier
from distwatch.diagnosis.facts.collective_wait import KILLED_WHILE_WAITING_S, Wait
from distwatch.diagnosis.facts.communicators import APART_S, with_communicators
from distwatch.diagnosis.facts.device_queues import DeviceTimeline
from distwatch.diagnosis.facts.device_work import runs_on_device
from distwatch.diagnosis.facts.formed_groups import with_formed_groups
from distwatch.diagnosis.facts.hearings import Hearings
from distwatch.diagnosis.facts.initializations import number_of
from distwatch.diagnosis.facts.operations import P2P, operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait, device_peer_waits, peer_waits
from distwatch.diagnosis.facts.rank_links import RankLinks
from distwatch.diagnosis.facts.ray_view import RayView
from distwatch.diagnosis.facts.recorder_files import with_recorder_files
from distwatch.diagnosis.facts.signals import TEARDOWN
from distwatch.diagnosis.facts.torch_frames import (
    COLLECTIVE_FRAMES,
    is_in_init_by_stack,
    torch_frame,
)
from distwatch.diagnosis.facts.worlds import World, claims_of, ranks_of, size_of
from distwatch.state import events as ev
from distwatch.state.model import Process, RunState, Step
from distwatch.state.recorder_entries import Collective
from distwatch.state.steps import COLLECTIVE, INIT, StepKind

_TIMED_OUT = re.compile(
    r"(?i)timed out waiting|watchdog caught collective|collective operation timeout"
)
FROZEN_AFTER_S = 5.0
"""Heartbeats come twice a second; a machine with a core for each thread does not delay them by this much."""
BEAT_NS = 1_000_000_000
"""A change gets its time when the agent's thread sees it, at most this much later."""
TIMEOUT_SHARE = 0.8
"""distwatch reports before torch's own timeout passes."""
GroupKey = tuple[str, int]
"""A group of one `Job`, by its name and members; meaningless in another `Job`."""


class Job:
    """Read-only questions about one world of a run.

    Attributes:
        processes: all processes of that world, including several that claim one rank or know none.
        ranks: the process that counts for each global rank, as far as it, an observer or NCCL's RAS tells of it.
        unwatched: those of them that nobody but RAS tells of: their end is seen by nobody.
        claims: by global rank, all processes that planned to be that rank.
        device: what the ranks have enqueued on their devices.
        peer_waits: by global rank, the send or recv that it waits in.
        batch_waits: further ones that ranks wait in at the same time, as parts of a batch.
        met_peers: sends and recvs at which the devices of both sides stand.
    """

    def __init__(self, state: RunState, world: World) -> None:
        self.state = state
        self.processes = world
        known = with_recorder_files(ranks_of(world), state)
        self.claims = claims_of(world)
        self.world = size_of(known)
        self.ranks = with_formed_groups(with_communicators(known, self.world, state), state)
        self.unwatched = frozenset(self.ranks.keys() - known.keys())
        self._is_instrumented = any(process.instrumented for process in known.values())
        self._by_host: dict[str, dict[int, Process]] | None = None
        self._members: dict[int, tuple[int, ...]] = {}
        self._of_value: dict[tuple[int, ...], tuple[int, ...]] = {}
        offsets = {name: host.wall_offset_ns for name, host in state.hosts.items()}
        self.device = DeviceTimeline(self.ranks, offsets)
        self.waits = [wait for rank in self.ranks for wait in self._waits_of(rank)]
        self._first_waits: dict[tuple[GroupKey, float], list[Wait]] = {}
        self._by_rank: dict[int, list[Wait]] = {}
        self._by_group: dict[GroupKey, list[Wait]] = {}
        for wait in self.waits:
            self._by_rank.setdefault(wait.global_rank, []).append(wait)
            if wait.seq >= 0:
                key = self.group_key(wait.pg_name, wait.members)
                self._by_group.setdefault(key, []).append(wait)
        self.peer_waits = {
            rank: wait
            for rank, wait in peer_waits(self.ranks).items()
            if rank not in self.device.queues and not self._has_gone_on(rank, wait)
        }
        self.batch_waits: list[PeerWait] = []
        self.met_peers: list[PeerWait] = []
        for peer in device_peer_waits(self.ranks, self.device):
            if peer.meets and not peer.unstarted:
                self.met_peers.append(peer)
            elif self.peer_waits.setdefault(peer.global_rank, peer) is not peer:
                self.batch_waits.append(peer)

    @cached_property
    def ray(self) -> RayView:
        """What the Ray cluster says about the job that this run is."""
        return RayView(self.state)

    @cached_property
    def hearings(self) -> Hearings:
        """How old what is known of each rank is."""
        return Hearings(self.state)

    @cached_property
    def links(self) -> RankLinks:
        """The TCP connections between the ranks."""
        return RankLinks(self.ranks)

    def now_ns(self, process: Process) -> int:
        """The host's newest time, or the time of the process's end."""
        host = self.state.hosts.get(process.host)
        now = host.now_ns if host else process.last_ns
        return min(now, process.ended_ns) if process.ended_ns is not None else now

    def age_s(self, process: Process, since_ns: int) -> float:
        """Seconds from `since_ns` to the process's newest time, never negative."""
        return max(0.0, (self.now_ns(process) - since_ns) / 1e9)

    def wall_ns(self, process: Process, time_ns: int) -> int:
        """A time of its host by the wall clock: only wall clocks can be compared between hosts."""
        return self.state.wall_ns(process.host, time_ns)

    def heartbeat_s(self, process: Process) -> float | None:
        """Age of the last pulse; None where there was none, or the agent has left the process."""
        pulse = process.outside.pulse if process.left_ns is None else None
        if pulse is None or not pulse.beat:
            return None
        host = self.state.hosts.get(process.host)
        until_ns = min(self.now_ns(process), host.values_ns) if host else self.now_ns(process)
        return max(0.0, (until_ns - pulse.beat_ns) / 1e9)

    def deadline_s(
        self, process: Process, kind: StepKind, torch_timeout_s: float | None = None
    ) -> float:
        """The deadline for a kind of step, before torch's own timeout where that is shorter."""
        described = process.started or process.outside.seen
        given = described.deadlines if described else {}
        own = given.get(kind.name, kind.deadline_s)
        return own if torch_timeout_s is None else min(own, TIMEOUT_SHARE * torch_timeout_s)

    def limit_s(self, process: Process, step: Step, kind: StepKind) -> float:
        """How long a step may take: its own deadline, else that of its kind."""
        return self.deadline_s(process, kind) if step.deadline_s is None else step.deadline_s

    def is_frozen(self, process: Process) -> bool:
        """Alive, but its agent's thread does not run: something holds the GIL, or the kernel holds the process."""
        return process.ended_ns is None and self.was_frozen(process)

    def was_frozen(self, process: Process) -> bool:
        """The same as `is_frozen`; for a process that has ended: at its end."""
        age = self.heartbeat_s(process)
        host = self.state.hosts.get(process.host)
        return age is not None and age > FROZEN_AFTER_S * (host.crowding if host else 1.0)

    def kernel_state(self, process: Process) -> str:
        sample = process.outside.sample
        return sample.state if sample and process.ended_ns is None else ""

    def why_unseen(self, global_rank: int) -> str:
        """What is known of a rank without a process."""
        hosts = self.state.hosts.values()
        told = (host.not_observed.get(f"rank {global_rank}") for host in hosts)
        return next((why for why in told if why), "no process seen")

    def innermost_step(self, process: Process) -> Step | None:
        """The open step that began last."""
        steps = process.open_steps()
        return steps[-1] if steps else None

    def waits_for(self, global_rank: int) -> list[Wait]:
        """The waits of one rank."""
        return self._by_rank.get(global_rank, [])

    def waits_in(self, pg_name: str, members: tuple[int, ...]) -> list[Wait]:
        """The waits in one group's numbered collectives, by rank."""
        return self._by_group.get(self.group_key(pg_name, members), [])

    def first_waits_in(self, pg_name: str, members: tuple[int, ...], lasted_s: float) -> list[Wait]:
        """For each collective number that ranks wait for in a group for so long, the wait of the lowest rank."""
        key = self.group_key(pg_name, members), lasted_s
        if (found := self._first_waits.get(key)) is None:
            first: dict[int, Wait] = {}
            for wait in self._by_group.get(key[0], ()):
                if wait.waited_s >= lasted_s:
                    first.setdefault(wait.seq, wait)
            found = self._first_waits[key] = list(first.values())
        return found

    def group_key(self, pg_name: str, members: tuple[int, ...]) -> GroupKey:
        """What two ranks' views of one group have in common. Very many ranks have very long lists.

        Decoded lists are mostly one object each, and identical objects need no comparison by value.
        """
        one = self._members.get(id(members))
        if one is None:
            one = self._members[id(members)] = self._of_value.setdefault(members, members)
        return pg_name, id(one)

    def ranks_on(self, host: str) -> dict[int, Process]:
        """The ranks of one host."""
        if self._by_host is None:
            self._by_host = {}
            for rank, process in self.ranks.items():
                self._by_host.setdefault(process.host, {})[rank] = process
        return self._by_host.get(host, {})

    def peer_waited_s(self, wait: PeerWait) -> float:
        """How long a rank has been in its send or recv, or was when it ended."""
        process = self.ranks[wait.global_rank]
        until = process.exception_ns if is_timeout(process) else None
        until = until if until is not None else self.now_ns(process)
        return max(0.0, (until - wait.entered_ns) / 1e9)

    def peer_overdue(self, wait: PeerWait) -> bool:
        """Whether it has been in it for longer than a collective may take."""
        process = self.ranks[wait.global_rank]
        if is_timeout(process) or not process.instrumented:
            return True  # a wait that only a stack shows counts once it is long enough
        group = process.groups.get(wait.pg_name)
        limit_s = self.deadline_s(process, COLLECTIVE, group.timeout_s if group else None)
        if was_cut_off(process):
            limit_s = min(KILLED_WHILE_WAITING_S, limit_s)
        return self.peer_waited_s(wait) > limit_s

    def _has_gone_on(self, rank: int, wait: PeerWait) -> bool:
        """Whether it has entered a collective since, which may have been called from C++."""
        since = wait.entered_ns + BEAT_NS
        pulse = self.ranks[rank].outside.pulse
        return any(
            group.changed_ns > since and group.enqueued > max(group.completed, 0)
            for group in (pulse.groups if pulse else ())
        )

    def has_arrived(self, global_rank: int, number: int = 1) -> bool:
        """Whether the rank has called init_process_group at least `number` times, as far as was seen."""
        process = self.ranks.get(global_rank)
        if process is None:
            return False
        if number_of(process) >= number:
            return True
        if process.planned is None and any(s.name in INIT.calls for s in process.steps.values()):
            return True
        # A rank without distwatch has no number: it has arrived or it has not.
        return not process.instrumented and is_in_init_by_stack(process)

    def in_collective_by_stack(self, process: Process) -> str:
        """The collective whose torch frame is on the main thread's stack; '' where there is none."""
        frame = torch_frame(process.main_frames, COLLECTIVE_FRAMES)
        return operation_name(frame.function) if frame else ""

    def operation(self, global_rank: int, pg_name: str, seq: int) -> ev.Operation | None:
        """The call that a rank made as collective #seq of a group, from its operations ring."""
        process = self.ranks.get(global_rank)
        for operation in reversed(process.outside.operations if process else ()):
            if operation.pg_name == pg_name and operation.seq == seq:
                return operation if operation_name(operation.op) not in P2P else None
        return None

    def recorded(self, global_rank: int, pg_name: str, seq: int) -> Collective | None:
        """The flight recorder's entry of it, where a dump has one."""
        process = self.ranks.get(global_rank)
        dumped = process.collectives if process else None
        return dumped.find(pg_name, seq) if dumped else None

    def site_of(self, global_rank: int, operation: ev.Operation) -> ev.Site | None:
        process = self.ranks.get(global_rank)
        return process.sites.get(operation.site) if process else None

    def _waits_of(self, global_rank: int) -> Iterable[Wait]:
        process = self.ranks[global_rank]
        if (barrier := unfinished_barrier(process)) is not None:
            yield from self._barrier_wait(global_rank, process, barrier)
        if not is_timeout(process):
            yield from self._waits_now(global_rank, process)
        elif barrier is None and not self._newest_is_p2p(process):
            yield from self._timed_out_wait(global_rank, process)

    def _barrier_wait(
        self, global_rank: int, process: Process, barrier: ev.Operation
    ) -> Iterable[Wait]:
        group = process.groups.get(barrier.pg_name)
        if group is not None:
            until = barrier.left_ns or self.now_ns(process)
            yield Wait(
                global_rank=global_rank,
                pg_name=group.pg_name,
                members=group.members,
                op=barrier.op,
                waited_s=max(0.0, (until - barrier.entered_ns) / 1e9),
                deadline_s=self._may_wait_s(process, group.timeout_s),
                killed=was_cut_off(process),
                timed_out=bool(barrier.left_ns),
            )

    def _newest_is_p2p(self, process: Process) -> bool:
        operations = process.outside.operations
        return bool(operations) and operation_name(operations[-1].op) in P2P

    @cached_property
    def _completed(self) -> dict[GroupKey, int]:
        """By group, the newest collective that a member completed: none waits in it, whatever an old pulse says."""
        found: dict[GroupKey, int] = {}
        # The recorder calls completed what torch's timeout has ended.
        for process in (p for p in self.ranks.values() if not is_timeout(p)):
            for seen in process.outside.pulse.groups if process.outside.pulse else ():
                if group := process.groups.get(seen.pg_name):
                    key = self.group_key(seen.pg_name, group.members)
                    found[key] = max(found.get(key, -1), seen.completed)
        return found

    def _may_wait_s(self, process: Process, timeout_s: float | None) -> float:
        """How long a collective may take; without any agent, what has not moved between two looks hangs."""
        if not self._is_instrumented:
            return APART_S
        return self.deadline_s(process, COLLECTIVE, timeout_s)

    def _timed_out_wait(self, global_rank: int, process: Process) -> Iterable[Wait]:
        """The collective that torch's timeout ended: the recorder calls it completed then."""
        pulse = process.outside.pulse
        last = max(pulse.groups if pulse else (), key=lambda g: g.changed_ns, default=None)
        group = process.groups.get(last.pg_name) if last else None
        if last is None or group is None or last.enqueued < 1:
            return
        called = self.operation(global_rank, last.pg_name, last.enqueued)
        until = process.exception_ns or self.now_ns(process)
        since = called.entered_ns if called else until - int((group.timeout_s or 0) * 1e9)
        yield Wait(
            global_rank=global_rank,
            pg_name=last.pg_name,
            members=group.members,
            seq=last.enqueued,
            waited_s=max(0.0, (until - since) / 1e9),
            deadline_s=self._may_wait_s(process, group.timeout_s),
            timed_out=True,
        )

    def _waits_now(self, global_rank: int, process: Process) -> Iterable[Wait]:
        pulse = process.outside.pulse
        for progress in pulse.groups if pulse else ():
            if not progress.in_flight:
                continue
            group = process.groups.get(progress.pg_name)
            if group is None or group.destroyed_ns is not None:
                continue
            if runs_on_device(group.backend):
                continue  # it waits at the head of its queue alone
            completed = max(progress.completed, process.retired.get(progress.pg_name, -1), 0)
            if self.was_frozen(process):
                key = self.group_key(progress.pg_name, group.members)
                completed = max(completed, self._completed.get(key, -1))
            if progress.enqueued <= completed:
                continue
            yield Wait(
                global_rank=global_rank,
                pg_name=progress.pg_name,
                members=group.members,
                seq=completed + 1,
                waited_s=self.age_s(process, progress.changed_ns),
                deadline_s=self._may_wait_s(process, group.timeout_s),
                killed=was_cut_off(process),
            )
        yield from self._head_wait(global_rank, process)

    def _head_wait(self, global_rank: int, process: Process) -> Iterable[Wait]:
        if (head := self.device.head(global_rank)) and not head.is_p2p:
            yield Wait(
                global_rank=global_rank,
                pg_name=head.pg_name,
                members=head.members,
                seq=head.seq,
                waited_s=self.age_s(process, self.device.stands_since_ns(global_rank, head)),
                deadline_s=self._may_wait_s(process, head.timeout_s),
                killed=was_cut_off(process),
            )


def is_timeout(process: Process) -> bool:
    """Whether torch's own collective timeout ended it."""
    error = process.exception
    if error is None or not _TIMED_OUT.search(error.message):
        return False
    return process.confirmed is not None and any(
        g.destroyed_ns is None for g in process.groups.values()
    )


def was_cut_off(process: Process) -> bool:
    """Whether it was ended from outside: what it did until then is what blocked it."""
    seen = process.outside.exit
    if process.ended_ns is None or seen is None:
        return False
    if process.exception is not None:
        return process.exception.type_name == "KeyboardInterrupt"
    unexplained = seen.exit_code is None and seen.signal is None and process.ending is None
    return seen.signal in TEARDOWN or unexplained
