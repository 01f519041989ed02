"""How a world was ended from outside, and the case just before that: what blocked it until then.

A job that hangs is ended some day: by Ctrl-C, a scheduler's limit, a launcher, an operator. That end
says nothing about the cause, so the verdict is made on the state before it.
"""

from __future__ import annotations

import copy

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.deaths import (
    AT_ONCE_S,
    SEEN_LATE_S,
    death_ns,
    ending_signal,
    is_oom_killed,
    signalled_ns,
)
from distwatch.diagnosis.facts.host_links import unseen_hosts
from distwatch.diagnosis.facts.job import was_cut_off
from distwatch.diagnosis.facts.signals import REQUESTS, SIGKILL
from distwatch.state.host import Host
from distwatch.state.model import Process, RunState, Step

_GRACE_S = 120.0
"""Launchers and schedulers send SIGKILL to processes that are still alive this long after the request."""


def case_before_teardown(case: Case) -> Case | None:
    """The case without the ends by which the whole world was cleared away; None where it was not.

    A rank that ended before that stays ended, and the clocks stop at the first of the removed ends.
    """
    cleared = _cleared_away(case)
    return _case_without(case, cleared) if cleared else None


def case_before_loss(case: Case) -> Case | None:
    """The case just before its first loss, where the lost rank did not cause it.

    None where no rank was lost, or where a rank ended with an exception, a crash or for lack of memory.
    """
    own = case.deaths.own
    if not own or own.keys() & case.job.unwatched or any(map(_is_own_doing, own.values())):
        return None
    return _case_without(case, {**own, **case.deaths.victims})


def _cleared_away(case: Case) -> dict[int, Process]:
    """The ranks that one teardown ended, up to the last of the world; empty where there was none."""
    hidden = unseen_hosts(case.state)
    ranks = {
        r: p
        for r, p in case.job.ranks.items()
        if p.host not in hidden and r not in case.job.unwatched
    }
    if any(process.ended_ns is None and process.exception is None for process in ranks.values()):
        return {}
    signalled = {r: p for r, p in ranks.items() if _is_signalled(p)}
    first_ns = _beginning(case, list(signalled.values()))
    if first_ns is None:
        return {}
    late = {r: p for r, p in ranks.items() if _ended_at(case, p) >= first_ns}
    late = {r: p for r, p in late.items() if r not in case.deaths.clean}
    asked = any(
        ending_signal(p) in REQUESTS and _ended_at(case, p) <= first_ns + AT_ONCE_S * 1e9
        for p in late.values()
    )
    # A rank that loses a peer which was asked to end is part of the teardown; one that loses a killed peer is not.
    rest = [p for r, p in late.items() if r not in signalled and not _is_killed(p)]
    if any(_is_own_doing(p) for p in rest if p not in case.deaths.victims.values()):
        return {}
    return late if asked or not rest else {}


def _beginning(case: Case, signalled: list[Process]) -> int | None:
    """When the last wave of signals began (wall ns); None where there was none."""
    by_time = sorted(signalled, key=lambda p: _ended_at(case, p))
    wave: list[Process] = []
    for process in reversed(by_time):
        if wave:
            gap_s = (_ended_at(case, wave[-1]) - _ended_at(case, process)) / 1e9
            limit_s = _GRACE_S if ending_signal(process) in REQUESTS else AT_ONCE_S
            if gap_s > limit_s:
                break
        wave.append(process)
    wave.reverse()
    # A launcher asks the others to end once one was killed: the killed rank is not part of the teardown.
    asked = [p for p in wave if ending_signal(p) in REQUESTS]
    begin = asked if asked and ending_signal(wave[0]) == SIGKILL else wave
    return _ended_at(case, begin[0]) if begin else None


def _is_signalled(process: Process) -> bool:
    """Whether somebody else ended it, as far as was seen: an end that nobody saw is not its own."""
    return was_cut_off(process) and not is_oom_killed(process)


def _is_killed(process: Process) -> bool:
    """Whether a SIGKILL met it as well, after it had lost a peer that was killed a moment before."""
    seen = process.outside.exit
    return seen is not None and seen.signal == SIGKILL


def _is_own_doing(process: Process) -> bool:
    """Whether its end has a cause of its own: an exception, an exit code, a crash, lack of memory."""
    signal = ending_signal(process)
    seen = process.outside.exit
    if is_oom_killed(process) or (signal is None and process.exception is not None):
        return True
    return bool(seen and seen.exit_code) or (signal is not None and not _is_signalled(process))


def _ended_at(case: Case, process: Process) -> int:
    ended_ns = signalled_ns(process) if _is_signalled(process) else death_ns(process)
    return case.job.wall_ns(process, ended_ns)


def _case_without(case: Case, ended: dict[int, Process]) -> Case:
    """The case as if these had not ended, at the time of the first end on each host."""
    first_ns = min(_ended_at(case, process) for process in ended.values())
    firsts = {
        name: first_ns - host.wall_offset_ns
        for name, host in case.state.hosts.items()
        if any(process.host == name for process in case.job.processes)
    }
    for process in ended.values():
        # A journal may name a host of which nothing else is known.
        died_ns = death_ns(process)
        firsts[process.host] = min(died_ns, firsts.get(process.host, died_ns))
    state: RunState = copy.copy(case.state)
    keys = {process.key for process in ended.values()}
    state.processes = {
        key: _living(process, firsts[process.host]) if key in keys else process
        for key, process in case.state.processes.items()
    }
    state.hosts = {name: _at(host, firsts.get(name)) for name, host in case.state.hosts.items()}
    return Case.of(state, case)


def _living(process: Process, until_ns: int) -> Process:
    """The process as it was at that time, as far as the state still shows."""
    living = copy.copy(process)
    living.exception = living.exception_ns = living.ending = living.ending_ns = None
    living.steps = {number: _open(step, until_ns) for number, step in process.steps.items()}
    living.groups = {}
    for name, group in process.groups.items():
        held = living.groups[name] = copy.copy(group)
        if held.destroyed_ns is not None and held.destroyed_ns >= until_ns:
            held.destroyed_ns = None
    living.outside = copy.copy(process.outside)
    living.outside.exit = living.outside.exit_ns = living.outside.error_file = None
    living.outside.operations = tuple(
        msgspec.structs.replace(call, left_ns=0) if call.left_ns >= until_ns else call
        for call in process.outside.operations
    )
    sample = living.outside.sample
    if sample is not None and sample.state in ("Z", "X"):
        living.outside.sample = None
    return living


def _open(step: Step, until_ns: int) -> Step:
    if step.ended_ns is None or step.ended_ns < until_ns:
        return step
    still = copy.copy(step)
    still.ended_ns = still.error = None
    still.moved_ns = min(still.moved_ns, until_ns)
    return still


def _at(host: Host, time_ns: int | None) -> Host:
    if time_ns is None or host.now_ns <= time_ns:
        return host
    earlier = copy.copy(host)
    earlier.now_ns = time_ns
    # Who held a lock let go of it with its end, which is seen a moment later.
    over_ns = time_ns - int(SEEN_LATE_S * 1e9)
    freed = {path for path in host.held_locks if host.freed_locks.get(path, 0) >= over_ns}
    earlier.locks = {
        path: host.held_locks[path] if path in freed else looked
        for path, looked in host.locks.items()
    }
    return earlier
