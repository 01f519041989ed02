"""Each way in which a rank waits for another one, as edges of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from distwatch.diagnosis.facts.activity import (
    activity_of,
    any_thread_communicates,
    awaited_lock_file,
    socket_peer,
)
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.initializations import stuck_creation
from distwatch.diagnosis.facts.job import Job, was_cut_off
from distwatch.diagnosis.facts.loads import load_under_way
from distwatch.diagnosis.facts.monitored_barriers import monitored_barriers
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait
from distwatch.diagnosis.facts.stack_calls import (
    STILL_S,
    call_by_stack,
    is_seen_from_outside,
    still_s,
    waited_s,
)
from distwatch.diagnosis.facts.torch_frames import is_in_init_by_stack
from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.diagnosis.facts.waits import Bundle, Kind, Wait
from distwatch.state.model import Process
from distwatch.state.steps import COLLECTIVE, INIT, LOAD

SETTLED_S = 1.0
"""A wait counts once it has lasted this long."""


def wait_graph(
    job: Job,
    groups: Iterable[GroupView],
    shared: Iterable[Bundle] = (),
    abroad: Iterable[int] = (),
) -> WaitGraph:
    """The graph of a job with these groups. A rank that is seen to be elsewhere waits for nobody.

    An asynchronous collective or send does not block the rank that posted it while its main
    thread works at something else.
    """
    elsewhere: dict[int, bool] = {}

    def is_held_up(rank: int) -> bool:
        if rank not in elsewhere:
            elsewhere[rank] = _is_elsewhere(job, rank)
        return not elsewhere[rank]

    # A stack in a lock is not work of the rank's own, where another rank holds that lock.
    waits = [
        msgspec.structs.replace(
            bundle,
            waiters={r: w for r, w in bundle.waiters.items() if is_held_up(r)},
            awaited=_seen_since(job, bundle),
        )
        for bundle in (
            *_collective_bundles(job, groups),
            *_barrier_bundles(job, is_held_up),
            *_device_bundles(job),
            *_peer_bundles(job),
            *_creation_bundles(job),
            *_stack_bundles(job),
            *shared,
        )
    ]
    return WaitGraph([*waits, *_lock_bundles(job), *_socket_bundles(job)], abroad)


def _seen_since(job: Job, bundle: Bundle) -> tuple[int, ...]:
    """Those whom the others wait for, as far as what is known of them is not from before most of that wait."""
    longest_s = max((wait.waited_s for wait in bundle.waiters.values()), default=0.0)
    first = job.ranks.get(next(iter(bundle.waiters), -1))
    limit_s = longest_s if first is None else job.deadline_s(first, COLLECTIVE)
    may_have_gone_on = job.hearings.may_have_gone_on
    late = {r for r in bundle.awaited if may_have_gone_on(job.ranks.get(r), longest_s, limit_s)}
    return tuple(r for r in bundle.awaited if r not in late) if late else bundle.awaited


def _is_elsewhere(job: Job, rank: int) -> bool:
    """Whether its stack or system call shows a rank at work of its own."""
    process = job.ranks.get(rank)
    if process is None or (process.ended_ns is not None and not was_cut_off(process)):
        return False
    if job.kernel_state(process) in ("T", "t"):
        return True
    activity = activity_of(job.state, process)
    if activity is None or not activity.certain or activity.waits_for_others:
        return False
    # A server's main thread idles in its event loop while another thread is in the collective.
    return not any_thread_communicates(process)


def _collective_bundles(job: Job, groups: Iterable[GroupView]) -> Iterable[Bundle]:
    for view in groups:
        if view.in_flight and view.missing and not view.on_device:
            yield Bundle(
                kind="collective",
                what=view.call,
                waiters={
                    wait.global_rank: Wait(waited_s=wait.waited_s, overdue=wait.overdue)
                    for wait in job.waits_in(view.pg_name, view.members)
                    if wait.seq == view.seq
                },
                awaited=view.missing,
                pg_name=view.pg_name,
                seq=view.seq,
            )


def _barrier_bundles(job: Job, is_held_up: Callable[[int], bool]) -> Iterable[Bundle]:
    """Nobody leaves a monitored barrier before all are in it; who is stopped inside does not go on, either."""
    for barrier in monitored_barriers(job):
        within = {rank for rank in barrier.waits if is_held_up(rank)}
        yield Bundle(
            kind="collective",
            what=barrier.call,
            waiters={
                rank: Wait(waited_s=wait.waited_s, overdue=wait.overdue)
                for rank, wait in barrier.waits.items()
                if wait.waited_s >= SETTLED_S
            },
            awaited=tuple(rank for rank in barrier.group.members if rank not in within),
            pg_name=barrier.group.pg_name,
        )


def _device_bundles(job: Job) -> Iterable[Bundle]:
    """A rank waits where its device is; one whose own device is behind waits for nobody."""
    for meeting in job.device.meetings:
        behind = set(meeting.behind)
        title = job.ranks[meeting.at[0]].groups[meeting.pg_name].pg_desc or meeting.pg_name
        yield Bundle(
            kind="collective",
            what=f"{operation_name(meeting.op) or 'collective'} #{meeting.seq} of {title}",
            waiters={
                wait.global_rank: Wait(waited_s=wait.waited_s, overdue=wait.overdue)
                for wait in job.waits_in(meeting.pg_name, meeting.members)
                if wait.seq == meeting.seq and wait.global_rank not in behind
            },
            awaited=meeting.awaited,
            pg_name=meeting.pg_name,
            seq=meeting.seq,
        )


def _peer_bundles(job: Job) -> Iterable[Bundle]:
    for wait in (*job.peer_waits.values(), *job.batch_waits):
        rank = wait.global_rank
        waited_s = job.peer_waited_s(wait)
        if waited_s >= SETTLED_S:
            yield Bundle(
                kind="p2p",
                what=_peer_text(wait),
                waiters={rank: Wait(waited_s=waited_s, overdue=job.peer_overdue(wait))},
                awaited=wait.awaited,
                pg_name=wait.pg_name,
                seq=wait.posted,
            )


def _peer_text(wait: PeerWait) -> str:
    named = wait.pg_desc and wait.pg_desc not in ("undefined", "default_pg")
    return f"{wait} in {wait.pg_desc}" if named else str(wait)


def _creation_bundles(job: Job) -> Iterable[Bundle]:
    """Ranks in an initialization or a group's creation wait for ranks that are in none."""
    inside: dict[str, dict[int, Wait]] = {}
    for rank, process in job.ranks.items():
        step = stuck_creation(process)
        if step is None:
            step = process.open_call_of(INIT)
        if step is not None:
            waited_s = job.age_s(process, step.started_ns)
            inside.setdefault(step.name, {})[rank] = Wait(waited_s=waited_s)
    within = {rank for waiters in inside.values() for rank in waiters}
    outside = tuple(rank for rank in range(job.world or 0) if rank not in within)
    for name, waiters in inside.items():
        kind: Kind = "group" if name.startswith("new_group") else "init"
        yield Bundle(kind=kind, what=name, waiters=waiters, awaited=outside)


def _stack_bundles(job: Job) -> Iterable[Bundle]:
    """Without distwatch in any rank: those in a call of torch.distributed wait for those that are in none."""
    if not is_seen_from_outside(job):
        return
    calls: dict[str, dict[int, Wait]] = {}
    outside: list[int] = []
    for rank, process in job.ranks.items():
        call, lasted_s = call_by_stack(job, process), waited_s(process)
        if call is not None and call.kind != "p2p":
            waiting = Wait(waited_s=lasted_s, overdue=lasted_s >= STILL_S)
            calls.setdefault(str(call), {})[rank] = waiting
        elif call is None and process.main_frames and not is_in_init_by_stack(process):
            outside.append(rank)
    for what, waiters in calls.items():
        yield Bundle(
            kind="collective", what=what, waiters=waiters, awaited=(*outside, *job.peer_waits)
        )


def _lock_bundles(job: Job) -> Iterable[Bundle]:
    """A rank that waits for a lock file waits for the rank that holds the lock."""
    if not any(host.locks for host in job.state.hosts.values()):
        return
    pids = {(p.host, p.pid): rank for rank, p in job.ranks.items() if p.ended_ns is None}
    for rank, process in job.ranks.items():
        host = job.state.hosts.get(process.host)
        for path, wait in _waits_for_locks(job, rank, process) if host else ():
            looked = host.locks.get(path) if host else None
            if looked is None:
                continue
            held_by = (pids.get((process.host, holder.pid)) for holder in looked.holders)
            yield Bundle(
                kind="lock",
                what=f"the lock {path}",
                waiters={rank: wait},
                awaited=tuple(other for other in held_by if other is not None and other != rank),
            )


def _socket_bundles(job: Job) -> Iterable[Bundle]:
    """A rank without distwatch that reads from a socket of its own waits for the rank at its other end."""
    if not is_seen_from_outside(job):
        return
    for rank, process in job.ranks.items():
        peer = socket_peer(process) if process.ended_ns is None else ""
        other = job.links.rank_at(rank, peer) if peer else None
        if other is not None and other != rank:
            lasted_s = still_s(process)
            yield Bundle(
                kind="socket",
                what=f"a read from its connection to rank {other}",
                waiters={rank: Wait(waited_s=lasted_s, overdue=lasted_s >= STILL_S)},
                awaited=(other,),
            )


def _waits_for_locks(job: Job, rank: int, process: Process) -> Iterable[tuple[str, Wait]]:
    load = load_under_way(job, rank)
    for outstanding in load.outstanding if load else ():
        if outstanding.waiting == "lock":
            waited_s = job.age_s(process, outstanding.since_ns)
            overdue = waited_s > job.deadline_s(process, LOAD)
            yield outstanding.what, Wait(waited_s=waited_s, overdue=overdue)
    if path := awaited_lock_file(process):
        limit_s = job.deadline_s(process, COLLECTIVE) if process.instrumented else STILL_S
        waited_s = still_s(process)
        yield path, Wait(waited_s=waited_s, overdue=waited_s >= limit_s)
