"""How what a process says of itself changes what is known of it; called by the reducer alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distwatch.state import events as ev
from distwatch.state.loads import LoadArguments
from distwatch.state.model import (
    CLOSED_STEPS_KEPT,
    LOADS_KEPT,
    MESHES_KEPT,
    RAISED_KEPT,
    SIDE_WORLDS_KEPT,
    Group,
    ModelLoad,
    Process,
    Step,
)
from distwatch.state.recorder_entries import Collective
from distwatch.state.steps import LOAD


def _process_started(process: Process, time_ns: int, event: ev.ProcessStarted) -> None:
    process.started, process.started_ns = event, time_ns


def _worker_placed(process: Process, _: int, event: ev.WorkerPlaced) -> None:
    process.worker = event


def _init_planned(process: Process, time_ns: int, event: ev.InitPlanned) -> None:
    process.planned, process.planned_ns, process.initialized = event, time_ns, False


def _finding_raised(process: Process, _: int, event: ev.FindingRaised) -> None:
    if event not in process.raised:
        process.raised.append(event)
        del process.raised[:-RAISED_KEPT]


def _mesh_made(process: Process, _: int, event: ev.MeshMade) -> None:
    if event not in process.meshes:
        process.meshes.append(event)
        del process.meshes[:-MESHES_KEPT]


def _layout_held(process: Process, time_ns: int, event: ev.LayoutHeld) -> None:
    process.layouts[event.framework] = event
    process.layouts_ns[event.framework] = time_ns


def _layout_released(process: Process, _: int, event: ev.LayoutReleased) -> None:
    process.layouts.pop(event.framework, None)


def _gradient_skipped(process: Process, _: int, event: ev.GradientSkipped) -> None:
    process.skipped_gradients[event.framework] = event


def _non_member_called(process: Process, _: int, event: ev.NonMemberCalled) -> None:
    if event not in process.non_member_calls:
        process.non_member_calls.append(event)
        del process.non_member_calls[:-RAISED_KEPT]


def _identity_confirmed(process: Process, _: int, event: ev.IdentityConfirmed) -> None:
    process.confirmed, process.initialized = event, True


def _integration_changed(process: Process, _: int, event: ev.IntegrationChanged) -> None:
    process.integrations[event.name] = event


def _step_started(process: Process, time_ns: int, event: ev.StepStarted) -> None:
    process.steps[event.step] = Step(
        step=event.step,
        name=event.name,
        parent=event.parent,
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
    """The outermost of such calls is a load, also before it says what it was asked for."""
    above = process.steps.get(event.parent) if event.parent is not None else None
    while above is not None:
        if above.step in process.loads:
            return
        above = process.steps.get(above.parent) if above.parent is not None else None
    arguments = LoadArguments(checkpoint=event.label)
    process.loads[event.step] = ModelLoad(step=event.step, arguments=arguments, began_ns=time_ns)
    for number in sorted(process.loads)[:-LOADS_KEPT]:
        del process.loads[number]


def _load_planned(process: Process, _: int, event: ev.LoadPlanned) -> None:
    if load := process.loads.get(event.step):
        load.arguments = event.arguments


def _model_placed(process: Process, _: int, event: ev.ModelPlaced) -> None:
    if load := process.loads.get(event.step):
        load.placement = event.placement


def _group_created(process: Process, _: int, event: ev.GroupCreated) -> None:
    held = process.groups.get(event.pg_name)
    if held is not None and held.destroyed_ns is None and held.members == event.members:
        # Said again since its axis became known, or its timeout was set.
        held.axis, held.timeout_s = event.axis or held.axis, event.timeout_s
        return
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


def _side_world_joined(process: Process, _: int, event: ev.SideWorldJoined) -> None:
    process.side_worlds[event.number] = event
    for number in sorted(process.side_worlds)[:-SIDE_WORLDS_KEPT]:
        del process.side_worlds[number]


def _group_called(process: Process, _: int, event: ev.GroupCalled) -> None:
    if all(call.number != event.number for call in process.group_calls):
        process.group_calls.append(event)


def _group_destroyed(process: Process, time_ns: int, event: ev.GroupDestroyed) -> None:
    for group in process.groups.values():
        if event.pg_name in ("", group.pg_name) and group.destroyed_ns is None:
            group.destroyed_ns = time_ns
    if not event.pg_name:
        process.group_calls.clear()
        process.meshes.clear()
        process.layouts.clear()
        process.initialized = False


def _site_seen(process: Process, _: int, event: ev.SiteSeen) -> None:
    process.sites[event.number] = event.site


def _collectives_dumped(process: Process, _: int, event: ev.CollectivesDumped) -> None:
    process.collectives = event
    process.retired = _retired(event.entries)


def _retired(entries: tuple[Collective, ...]) -> dict[str, int]:
    newest: dict[str, int] = {}
    first_open: dict[str, int] = {}
    for entry in entries:
        if entry.is_p2p:
            continue
        name, seq = entry.pg_name, entry.seq
        if seq > newest.get(name, -1):
            newest[name] = seq
        if not entry.over:
            first_open[name] = min(first_open.get(name, seq), seq)
    return newest | {name: seq - 1 for name, seq in first_open.items()}


def _exception_uncaught(process: Process, time_ns: int, event: ev.ExceptionUncaught) -> None:
    process.exception, process.exception_ns = event, time_ns
    process.exception_by_agent = True


def _process_ending(process: Process, time_ns: int, event: ev.ProcessEnding) -> None:
    process.ending, process.ending_ns = event, time_ns


def _hook_failed(process: Process, _: int, event: ev.HookFailed) -> None:
    process.hook_failures[event.hook] = event.error


def _snapshot(process: Process, time_ns: int, event: ev.Snapshot) -> None:
    if process.started is None:
        _process_started(process, time_ns, event.started)
    if event.worker is not None:
        _worker_placed(process, time_ns, event.worker)
    if event.planned is not None:
        _init_planned(process, process.planned_ns or time_ns, event.planned)
    if event.confirmed is not None:
        process.confirmed = event.confirmed
    process.initialized = event.initialized
    for raised in event.raised:
        _finding_raised(process, time_ns, raised)
    for mesh in event.meshes:
        _mesh_made(process, time_ns, mesh)
    for skipped in event.skipped:
        _gradient_skipped(process, time_ns, skipped)
    known, process.layouts = process.layouts_ns, {}
    for layout in event.layouts:
        _layout_held(process, known.get(layout.framework, time_ns), layout)
    for integration in event.integrations:
        process.integrations[integration.name] = integration
    for group in event.groups:
        if group.pg_name not in process.groups:
            _group_created(process, time_ns, group)
    for joined in event.side_worlds:
        _side_world_joined(process, time_ns, joined)
    for call in event.group_calls:
        _group_called(process, time_ns, call)
    for started_ns, step in event.steps:
        if step.step not in process.steps:
            _step_started(process, started_ns, step)
    for planned in event.loads:
        _load_planned(process, time_ns, planned)
    for placed in event.placed:
        _model_placed(process, time_ns, placed)
    for site in event.sites:
        process.sites[site.number] = site.site
    still_open = {step.step for _, step in event.steps}
    for kept in process.open_steps():
        if kept.step not in still_open:
            kept.ended_ns = time_ns


INSIDE: dict[type, Callable[[Process, int, Any], None]] = {
    ev.ProcessStarted: _process_started,
    ev.WorkerPlaced: _worker_placed,
    ev.InitPlanned: _init_planned,
    ev.FindingRaised: _finding_raised,
    ev.MeshMade: _mesh_made,
    ev.LayoutHeld: _layout_held,
    ev.LayoutReleased: _layout_released,
    ev.GradientSkipped: _gradient_skipped,
    ev.NonMemberCalled: _non_member_called,
    ev.IdentityConfirmed: _identity_confirmed,
    ev.IntegrationChanged: _integration_changed,
    ev.StepStarted: _step_started,
    ev.StepProgressed: _step_progressed,
    ev.StepEnded: _step_ended,
    ev.LoadPlanned: _load_planned,
    ev.ModelPlaced: _model_placed,
    ev.GroupCreated: _group_created,
    ev.SideWorldJoined: _side_world_joined,
    ev.GroupCalled: _group_called,
    ev.GroupDestroyed: _group_destroyed,
    ev.SiteSeen: _site_seen,
    ev.CollectivesDumped: _collectives_dumped,
    ev.ExceptionUncaught: _exception_uncaught,
    ev.ProcessEnding: _process_ending,
    ev.HookFailed: _hook_failed,
    ev.Snapshot: _snapshot,
}
