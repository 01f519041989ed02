"""Events in words for timelines: the kind of each event and one line about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distwatch.diagnosis.facts.ray_resources import bundles_text
from distwatch.diagnosis.facts.ray_view import actor_title
from distwatch.diagnosis.facts.signals import exit_text
from distwatch.state import events as ev
from distwatch.state.quantities import bytes_text, count_of, seconds
from distwatch.state.rank_sets import format_ranks
from distwatch.state.ray_events import (
    RayActorSeen,
    RayGroupSeen,
    RayJobSeen,
    RayLooked,
    RayNodeSeen,
)


def event_kind(event: ev.Event) -> str:
    """`step started`, `exit seen`, …"""
    if isinstance(event, ev.UnknownEvent):
        return event.kind.replace("_", " ")
    return str(event.__struct_config__.tag).replace("_", " ")


def event_text(event: ev.Event) -> str:
    """One line about an event; '' for an event that only moves clocks and numbers."""
    if isinstance(event, ev.UnknownEvent):
        return "an event of a newer distwatch"
    teller = _TELLERS.get(type(event))
    return teller(event) if teller else ""


def _step(event: ev.StepStarted) -> str:
    label = f" ({event.label})" if event.label else ""
    limit = f", deadline {seconds(event.deadline_s)}" if event.deadline_s is not None else ""
    return f"{event.name}{label}{limit}{_at(event.site)}"


def _progress(event: ev.StepProgressed) -> str:
    total = f" of {event.total}" if event.total is not None else ""
    return f"step {event.step}: {event.done}{total} {event.label}".rstrip()


def _device_map(event: ev.LoadPlanned) -> str:
    return f", device_map {event.arguments.device_map}" if event.arguments.device_map else ""


def _lock(event: ev.LockLooked) -> str:
    if event.not_observed:
        return f"{event.path}: not observed: {event.not_observed}"
    holders = ", ".join(
        f"pid {holder.pid}" if holder.pid else "a process that is not visible"
        for holder in event.holders
    )
    held = f"held by {holders}" if holders else "no visible process holds it"
    return f"{event.path}: {held if event.exists else 'it is gone'}"


def _group(event: ev.GroupCreated) -> str:
    title = event.pg_desc or event.pg_name
    return f"{title} ({event.backend}) of ranks {format_ranks(event.members) or 'not known'}"


def _called(event: ev.GroupCalled) -> str:
    members = "all" if event.members is None else format_ranks(event.members)
    return f"new_group call {event.number} of ranks {members}{_at(event.site)}"


def _plan(event: ev.InitPlanned) -> str:
    rank = "?" if event.global_rank is None else event.global_rank
    sizes = "".join(f" {axis}={size}" for axis, size in event.sizes.items())
    return f"rank {rank} of {event.world_size or '?'} by {event.method} {event.endpoint}{sizes}{_at(event.site)}"


def _axes(event: ev.MeshMade) -> str:
    return " × ".join(
        f"{axis or '?'} {size}" for axis, size in zip(event.axes, event.sizes, strict=False)
    )


def _at(site: ev.Site | None) -> str:
    return f" at {site}" if site else ""


def _findings(event: ev.FindingsJudged) -> str:
    if not event.findings:
        return "nothing is wrong any more"
    more = f" (+{len(event.findings) - 1})" if len(event.findings) > 1 else ""
    return f"{event.findings[0].code}: {event.findings[0].summary}{more}"


def _link(event: ev.LinkChanged) -> str:
    if event.linked:
        return f"{event.peer} is linked"
    return f"{event.peer} is no longer linked{': ' + event.why if event.why else ''}"


def _actor(event: RayActorSeen) -> str:
    rank = "" if event.global_rank is None else f" (rank {event.global_rank})"
    why = f": {event.death_text or event.death}" if event.death else ""
    restarts = f", restarted {event.restarts} times" if event.restarts else ""
    return f"{actor_title(event)}{rank} is {event.state}{restarts}{why}"


def _node(event: RayNodeSeen) -> str:
    state = "lives" if event.alive else f"died: {event.death_text or 'no reason given'}"
    return f"{event.host_name or event.address} {event.node_id[:12]} {state}"


def _placement_group(event: RayGroupSeen) -> str:
    return (
        f"{event.name or event.group_id[:12]} ({event.strategy}) is {event.state} "
        f"{event.scheduling}: {bundles_text(event.bundles)}"
    )


def _called_locally(event: ev.LocalGroupCalled) -> str:
    members = "all" if event.members is None else format_ranks(event.members)
    return f"new_group of ranks {members}, members only, with {event.held} groups held{_at(event.site)}"


ABORTED = {
    "asked": "told to end itself",
    "killed": "ended by SIGKILL",
    "failed": "could not be ended",
}
"""What DISTWATCH_ON_HANG=abort did to a process."""
_TELLERS: dict[type, Callable[[Any], str]] = {
    ev.ProcessStarted: lambda e: f"{e.role} pid {e.pid}  {' '.join(e.command)}".rstrip(),
    ev.WorkerPlaced: lambda e: (
        f"{e.cluster} {e.actor_class or 'worker'} {e.actor_name or e.actor_id} of job {e.job_id} "
        f"on node {e.node_id[:12]}"
    ),
    ev.InitPlanned: _plan,
    ev.ExceptionHeld: lambda e: (
        f"{e.type_name}: {e.message[:200]}{_at(e.site)}, {count_of(e.times, 'time')}"
    ),
    ev.ExceptionPassed: lambda _: "the main thread has no exception any more",
    ev.ThreadDied: lambda e: f"{e.thread}: {e.type_name}: {e.message[:200]}{_at(e.site)}",
    ev.LimitReached: lambda e: f"{e.what} {e.path}".rstrip(),
    ev.MainEnded: lambda e: (
        f"the main thread has ended; {', '.join(e.threads) or 'no thread'} left"
    ),
    ev.LocalGroupCalled: _called_locally,
    ev.FindingRaised: lambda e: f"{e.finding.code}: {e.finding.summary}",
    ev.MeshMade: lambda e: f"{_axes(e)} over ranks {format_ranks(e.members)}",
    ev.LayoutHeld: lambda e: (
        f"{e.label or e.framework}: {count_of(len(e.groups), 'group')}{_at(e.site)}"
    ),
    ev.LayoutReleased: lambda e: f"{e.framework}'s parallel state was destroyed",
    ev.GradientSkipped: lambda e: (
        f"{e.framework} skipped {e.skipped} of {e.of} backward steps{_at(e.site)}"
    ),
    ev.NonMemberCalled: lambda e: f"{e.op} on a group without this rank{_at(e.site)}",
    ev.EndpointProbed: lambda e: f"{e.endpoint}: {e.outcome}{', ' + e.detail if e.detail else ''}",
    ev.IdentityConfirmed: lambda e: f"by torch, in a world of {e.world_size}",
    ev.IntegrationChanged: lambda e: f"{e.name} {e.status}{': ' + e.reason if e.reason else ''}",
    ev.StepStarted: _step,
    ev.StepProgressed: _progress,
    ev.StepEnded: lambda e: f"step {e.step}" + (f" failed: {e.error}" if e.error else " done"),
    ev.LoadPlanned: lambda e: f"step {e.step} loads {e.arguments.checkpoint}{_device_map(e)}",
    ev.ModelPlaced: lambda e: (
        f"step {e.step} placed {e.placement.model_class} on "
        f"{', '.join(device.device for device in e.placement.devices) or 'no device'}"
    ),
    ev.LockLooked: _lock,
    ev.ExtraGroupJoined: lambda e: (
        f"joins a group{f' of {e.size}' if e.size else ''} beside its default group"
        f"{f' as {e.name}' if e.name else ''} at {e.endpoint or 'a store of its own'}{_at(e.site)}"
    ),
    ev.GroupCreated: _group,
    ev.GroupCalled: _called,
    ev.GroupDestroyed: lambda e: e.pg_name or "all groups",
    ev.CollectivesDumped: lambda e: (
        f"{count_of(len(e.entries), 'collective')}, {e.reason}"
        if not e.not_observed
        else f"not observed: {e.not_observed}"
    ),
    ev.RecorderFileRead: lambda e: f"{count_of(len(e.dumped.entries), 'collective')} in {e.path}",
    ev.ExceptionUncaught: lambda e: f"{e.type_name}: {e.message}",
    ev.ProcessEnding: lambda e: e.reason,
    ev.AgentLeft: lambda e: "distwatch has left the process, which goes on",
    ev.HookFailed: lambda e: f"{e.hook}: {e.error}",
    ev.Snapshot: lambda e: f"{count_of(len(e.kept), 'event')} kept, {e.dropped} dropped",
    ev.ObserverStarted: lambda e: f"pid {e.pid}{' (embedded)' if e.embedded else ''}",
    ev.ObserverEnded: lambda e: e.reason,
    ev.LinkChanged: _link,
    ev.ProcessSighted: lambda e: f"{e.role} pid {e.pid}  {' '.join(e.command)}".rstrip(),
    ev.ExitSeen: lambda e: f"{exit_text(e)}{'; ' + e.oom_killed if e.oom_killed else ''}",
    ev.StackTaken: lambda e: (
        f"{count_of(len(e.threads), 'thread')} by {e.source}" if not e.error else e.error
    ),
    ev.ArgumentsRead: lambda e: ", ".join(f"{n}={value}" for n, value in e.arguments.items()),
    ev.SharedMemorySampled: lambda e: f"{bytes_text(e.free)} of {bytes_text(e.total)} free",
    ev.FilesWritten: lambda e: ", ".join(
        f"{bytes_text(f.written_bytes)} of {f.path}" for f in e.files
    ),
    ev.PortErrorSeen: lambda e: f"{e.port or e.host}: {e.text}",
    ev.ConnectionsSeen: lambda e: (
        f"{count_of(len(e.stuck), 'connection')} without an answer"
        + "".join(f"; {one.local} → {one.peer}" for one in e.stuck[:2])
        + (f"; {count_of(len(e.held) + e.unlisted, 'connection')} in all" if e.held else "")
    ),
    ev.ErrorFileRead: lambda e: f"{e.type_name}: {e.message}",
    RayActorSeen: _actor,
    RayNodeSeen: _node,
    RayGroupSeen: _placement_group,
    RayJobSeen: lambda e: (
        f"job {e.job_id} of driver pid {e.driver_pid} {'has ended' if e.ended else 'runs'}"
    ),
    RayLooked: lambda e: f"{count_of(e.actors, 'actor')} at {e.address}",
    ev.NotObserved: lambda e: f"{e.what}: {e.why}",
    ev.RankAborted: lambda e: (
        f"{ABORTED[e.how]} for incident {e.incident} ({e.code}){': ' + e.why if e.why else ''}"
    ),
    ev.NodeMarked: lambda e: (
        f"{e.node} should be drained: {e.summary}{'; ' + e.drained if e.drained else ''}"
    ),
    ev.IncidentNotified: lambda e: (
        f"incident {e.incident} {e.how or e.phase} told to {e.to}"
        if e.delivered
        else f"incident {e.incident} {e.how or e.phase} could not be told to {e.to}"
    ),
    ev.FindingsJudged: _findings,
}
