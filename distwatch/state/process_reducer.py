"""How a process's own events change what is known about it; only the reducer calls this.

A snapshot repeats earlier events, mostly to readers that know them: a handler that gets an event
twice must leave the state unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from distwatch.state import events as ev
from distwatch.state.bounds import LONG_LIST, MOST_LISTED
from distwatch.state.event import register
from distwatch.state.loads import LoadArguments
from distwatch.state.model import CLOSED_STEPS_KEPT, Group, ModelLoad, Process, Step
from distwatch.state.steps import LOAD

E = TypeVar("E", bound=ev.Event)
K = TypeVar("K")
V = TypeVar("V")
INSIDE: dict[type[ev.Event], Callable[[Process, int, Any], None]] = {}
"""The handler of each class of events."""


_folds = partial(register, INSIDE)


def _shed(process: Process, table: dict[K, Any]) -> None:
    """Drops the oldest while all together name too many ranks: a few bytes can name many."""
    newest = next(reversed(table.values()), None)
    if newest is None or len(newest.members or ()) <= LONG_LIST:
        return
    total = sum(len(one.members or ()) for one in table.values())
    for key in list(table):
        if total <= MOST_LISTED:
            return
        total -= len(table.pop(key).members or ())
        why = f"its groups name more than {MOST_LISTED} ranks; the oldest groups were dropped"
        process.outside.not_observed["groups"] = why


def _put(table: dict[Any, E], event: E) -> None:
    """Keeps an event under its key, as its class declares it."""
    event.retain.put(table, event.retain.key(event), event)


def _put_in(table: str, process: Process, _: int, event: ev.Event) -> None:
    _put(getattr(process, table), event)


def _append_to(table: str, process: Process, _: int, event: ev.Event) -> None:
    """Keeps an event that says something new, and the newest of all."""
    listed = getattr(process, table)
    if event not in listed:
        listed.append(event)
        del listed[: -event.retain.most]


INSIDE[ev.IntegrationChanged] = partial(_put_in, "integrations")
INSIDE[ev.GradientSkipped] = partial(_put_in, "skipped_gradients")
INSIDE[ev.ExtraGroupJoined] = partial(_put_in, "extra_groups")
INSIDE[ev.FindingRaised] = partial(_append_to, "raised")
INSIDE[ev.ThreadDied] = partial(_append_to, "dead_threads")
INSIDE[ev.LimitReached] = partial(_put_in, "limits")
INSIDE[ev.MeshMade] = partial(_append_to, "meshes")
INSIDE[ev.NonMemberCalled] = partial(_append_to, "non_member_calls")


def _bound(table: dict[K, V], most: int, is_over: Callable[[V], bool]) -> None:
    """Drops the oldest entries beyond `most`; those that are over go first."""
    if len(table) > most:
        for key in sorted(table, key=lambda key: not is_over(table[key]))[: len(table) - most]:
            del table[key]


@_folds(ev.ProcessStarted)
def _process_started(process: Process, time_ns: int, event: ev.ProcessStarted) -> None:
    if process.started != event:
        process.started, process.started_ns = event, time_ns


@_folds(ev.WorkerPlaced)
def _worker_placed(process: Process, _: int, event: ev.WorkerPlaced) -> None:
    process.worker = event


@_folds(ev.InitPlanned)
def _init_planned(process: Process, time_ns: int, event: ev.InitPlanned) -> None:
    if process.planned != event:
        process.planned, process.planned_ns = event, time_ns
    process.initialized = False


@_folds(ev.LayoutHeld)
def _layout_held(process: Process, time_ns: int, event: ev.LayoutHeld) -> None:
    if process.layouts.get(event.framework) != event:
        event.retain.put(process.layouts_ns, event.framework, time_ns)
        _put(process.layouts, event)


@_folds(ev.LayoutReleased)
def _layout_released(process: Process, _: int, event: ev.LayoutReleased) -> None:
    _release_layout(process, event.framework)


def _release_layout(process: Process, framework: str) -> None:
    process.layouts.pop(framework, None)
    process.layouts_ns.pop(framework, None)


@_folds(ev.IdentityConfirmed)
def _identity_confirmed(process: Process, _: int, event: ev.IdentityConfirmed) -> None:
    process.confirmed, process.initialized = event, True


@_folds(ev.StepStarted)
def _step_started(process: Process, time_ns: int, event: ev.StepStarted) -> None:
    if event.step in process.steps:
        return
    process.steps[event.step] = Step(
        step=event.step,
        name=event.name,
        # A parent must be older than its step: a circle of steps would never end.
        parent=event.parent if (event.parent or 0) < event.step else None,
        deadline_s=event.deadline_s,
        label=event.label,
        site=event.site,
        thread=event.thread,
        total=event.total,
        started_ns=time_ns,
        moved_ns=time_ns,
    )
    if event.name in LOAD.calls:
        _begin_load(process, time_ns, event)
    _bound(process.steps, event.retain.most, lambda step: step.ended_ns is not None)


@_folds(ev.StepProgressed)
def _step_progressed(process: Process, time_ns: int, event: ev.StepProgressed) -> None:
    step = process.steps.get(event.step)
    if step is None:
        return
    step.done, step.moved_ns = event.done, time_ns
    step.total = event.total if event.total is not None else step.total
    step.label = event.label or step.label
    step.parameters = max(step.parameters, event.parameters)
    step.parameters_total = event.parameters_total or step.parameters_total
    step.bytes = max(step.bytes, event.bytes)
    step.bytes_total = event.bytes_total or step.bytes_total
    _touch_parents(process, step, time_ns)


def _touch_parents(process: Process, step: Step, time_ns: int) -> None:
    parent = process.steps.get(step.parent) if step.parent is not None else None
    while parent is not None and parent.moved_ns < time_ns:
        parent.moved_ns = time_ns
        parent = process.steps.get(parent.parent) if parent.parent is not None else None


@_folds(ev.StepEnded)
def _step_ended(process: Process, time_ns: int, event: ev.StepEnded) -> None:
    step = process.steps.get(event.step)
    if step is None:
        return
    step.ended_ns, step.error = time_ns, event.error
    _touch_parents(process, step, time_ns)
    loads = process.loads.keys()
    closed = [
        number
        for number, kept in process.steps.items()
        if kept.ended_ns is not None and number not in loads and kept.parent not in loads
    ]
    for number in sorted(closed)[:-CLOSED_STEPS_KEPT]:
        del process.steps[number]


def _begin_load(process: Process, time_ns: int, event: ev.StepStarted) -> None:
    """The outermost of such calls is a load, even before its arguments are known."""
    above = process.steps.get(event.parent) if event.parent is not None else None
    while above is not None:
        if above.step in process.loads:
            return
        above = process.steps.get(above.parent) if above.parent is not None else None
    arguments = LoadArguments(checkpoint=event.label)
    process.loads[event.step] = ModelLoad(step=event.step, arguments=arguments, began_ns=time_ns)
    for number in sorted(process.loads)[: -ev.LoadPlanned.retain.most]:
        del process.loads[number]


@_folds(ev.LoadPlanned)
def _load_planned(process: Process, _: int, event: ev.LoadPlanned) -> None:
    if load := process.loads.get(event.step):
        load.arguments = event.arguments


@_folds(ev.ModelPlaced)
def _model_placed(process: Process, _: int, event: ev.ModelPlaced) -> None:
    if load := process.loads.get(event.step):
        load.placement = event.placement


@_folds(ev.GroupCreated)
def _group_created(process: Process, _: int, event: ev.GroupCreated) -> None:
    held = process.groups.get(event.pg_name)
    if held is not None and held.destroyed_ns is None and held.members == event.members:
        # Repeated because its axis became known, or its timeout was set.
        held.axis, held.timeout_s = event.axis or held.axis, event.timeout_s
        return
    process.groups.pop(event.pg_name, None)  # a new one of that name is the newest
    process.groups[event.pg_name] = Group(
        pg_name=event.pg_name,
        pg_desc=event.pg_desc,
        backend=event.backend,
        members=event.members,
        timeout_s=event.timeout_s,
        site=event.site,
        axis=event.axis,
        world=event.world,
    )
    _bound(process.groups, event.retain.most, lambda group: group.destroyed_ns is not None)
    _shed(process, process.groups)


@_folds(ev.GroupCalled)
def _group_called(process: Process, _: int, event: ev.GroupCalled) -> None:
    _put(process.group_calls, event)
    _shed(process, process.group_calls)


@_folds(ev.LocalGroupCalled)
def _local_group_called(process: Process, _: int, event: ev.LocalGroupCalled) -> None:
    _put(process.local_group_calls, event)
    _shed(process, process.local_group_calls)


@_folds(ev.GroupDestroyed)
def _group_destroyed(process: Process, time_ns: int, event: ev.GroupDestroyed) -> None:
    if event.pg_name:
        _end_group(process, event.pg_name, time_ns)
        return
    process.initialized = False
    if time_ns <= process.world_ended_ns:
        return  # a snapshot repeats it: another world may exist by now
    process.world_ended_ns = time_ns
    for pg_name in process.groups:
        _end_group(process, pg_name, time_ns)
    process.group_calls.clear()
    process.local_group_calls.clear()
    process.meshes.clear()
    process.layouts.clear()
    process.layouts_ns.clear()


def _end_group(process: Process, pg_name: str, time_ns: int) -> None:
    group = process.groups.get(pg_name)
    if group is not None and group.destroyed_ns is None:
        group.destroyed_ns = time_ns


@_folds(ev.SiteSeen)
def _site_seen(process: Process, _: int, event: ev.SiteSeen) -> None:
    event.retain.put(process.sites, event.number, event.site)
    event.retain.put(process.callers, event.number, event.called_from)


@_folds(ev.CollectivesDumped)
def _collectives_dumped(process: Process, _: int, event: ev.CollectivesDumped) -> None:
    process.collectives = event
    process.retired = event.completed()


@_folds(ev.ExceptionUncaught)
def _exception_uncaught(process: Process, time_ns: int, event: ev.ExceptionUncaught) -> None:
    process.exception, process.exception_ns = event, time_ns
    process.exception_by_agent = True


@_folds(ev.ExceptionHeld)
def _exception_held(process: Process, _: int, event: ev.ExceptionHeld) -> None:
    process.held_exception = event


@_folds(ev.ExceptionPassed)
def _exception_passed(process: Process, _: int, __: ev.ExceptionPassed) -> None:
    process.held_exception = None


@_folds(ev.MainEnded)
def _main_ended(process: Process, time_ns: int, event: ev.MainEnded) -> None:
    if process.main_ended is None:
        process.main_ended, process.main_ended_ns = event, time_ns


@_folds(ev.ProcessEnding)
def _process_ending(process: Process, time_ns: int, event: ev.ProcessEnding) -> None:
    process.ending, process.ending_ns = event, time_ns


@_folds(ev.AgentLeft)
def _agent_left(process: Process, time_ns: int, _: ev.AgentLeft) -> None:
    process.left_ns = time_ns


@_folds(ev.HookFailed)
def _hook_failed(process: Process, _: int, event: ev.HookFailed) -> None:
    event.retain.put(process.hook_failures, event.hook, event.error)


@_folds(ev.Snapshot)
def _snapshot(process: Process, time_ns: int, event: ev.Snapshot) -> None:
    for kept_ns, kept in event.kept:
        if (handler := INSIDE.get(type(kept))) is not None:
            handler(process, kept_ns or time_ns, kept)
    # What a snapshot no longer keeps has ended in the records that were lost.
    for step in _absent(event, ev.StepStarted, [s.step for s in process.open_steps()]):
        process.steps[step].ended_ns = time_ns
    for pg_name in _absent(event, ev.GroupCreated, process.groups):
        _end_group(process, pg_name, time_ns)
    if process.held_exception and _absent(event, ev.ExceptionHeld, [()]):
        process.held_exception = None
    for framework in _absent(event, ev.LayoutHeld, process.layouts):
        _release_layout(process, framework)


def _absent(snapshot: ev.Snapshot, kind: type[ev.Event], known: Iterable[K]) -> list[K]:
    """The known keys without an event in a snapshot that has all events of this class."""
    if str(kind.__struct_config__.tag) in snapshot.incomplete:
        return []
    kept = {kind.retain.key(event) for _, event in snapshot.kept if type(event) is kind}
    return [key for key in known if key not in kept]
