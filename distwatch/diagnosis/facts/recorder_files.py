"""What a rank's own flight recorder left in a file, where the rank says nothing newer itself."""

from __future__ import annotations

import copy

import msgspec

from distwatch.state import events as ev
from distwatch.state.model import Group, Process, RunState

FRESH_S = 180.0
"""An older dump says nothing of a rank that lives, unless a call had run into its timeout by then."""


def with_recorder_files(ranks: dict[int, Process], state: RunState) -> dict[int, Process]:
    """The ranks, completed by the dumps that they left. The originals do not change."""
    return {
        rank: process if process.outside.recorder_file is None else _completed(process, state)
        for rank, process in ranks.items()
    }


def _completed(process: Process, state: RunState) -> Process:
    file, host = process.outside.recorder_file, state.hosts.get(process.host)
    if file is None or host is None:
        return process
    now_ns = host.now_ns if process.ended_ns is None else min(host.now_ns, process.ended_ns)
    late_ns = max(0, now_ns - file.taken_ns)
    is_old = process.ended_ns is None and late_ns > FRESH_S * 1e9
    if is_old and not _has_timed_out(file, host.wall_offset_ns):
        return process
    known, own = process.collectives, _newest_ns(process.collectives)
    if known is not None and own >= _newest_ns(file.dumped):
        return process
    told = copy.copy(process)
    told.collectives = file.dumped
    told.retired = {**process.retired, **file.dumped.completed()}
    if not process.instrumented:
        _say_all(told, file, late_ns)
    return told


def _say_all(told: Process, file: ev.RecorderFileRead, late_ns: int) -> None:
    """Of a rank without an agent: its groups, numbers and calls.

    A wait had lasted so long when the dump was written; nobody knows whether it lasts still.
    """
    later = msgspec.structs.replace
    told.groups = {group.pg_name: _group(group) for group in file.groups} | told.groups
    told.sites = {**file.sites, **told.sites}
    entries = tuple(
        later(entry, created_wall_ns=entry.created_wall_ns + late_ns)
        for entry in file.dumped.entries
    )
    told.collectives = ev.CollectivesDumped.of(file.dumped.reason, entries)
    told.outside = copy.copy(told.outside)
    if told.outside.pulse is None:
        groups = tuple(later(one, changed_ns=one.changed_ns + late_ns) for one in file.pulse.groups)
        told.outside.pulse = later(file.pulse, groups=groups)
        told.outside.operations = tuple(
            later(one, entered_ns=one.entered_ns + late_ns) for one in file.operations
        )


def _group(created: ev.GroupCreated) -> Group:
    return Group(
        pg_name=created.pg_name,
        pg_desc=created.pg_desc,
        backend=created.backend,
        members=created.members,
        timeout_s=created.timeout_s,
        site=None,
    )


def _newest_ns(dumped: ev.CollectivesDumped | None) -> int:
    return max((e.created_wall_ns for e in dumped.entries), default=0) if dumped else 0


def _has_timed_out(file: ev.RecorderFileRead, wall_offset: int) -> bool:
    """Whether a call had been open for longer than its timeout when the dump was written."""
    taken_ns = file.taken_ns + wall_offset
    return any(
        not entry.over
        and entry.timeout_ms is not None
        and taken_ns - entry.created_wall_ns >= entry.timeout_ms * 1_000_000
        for entry in file.dumped.entries
    )
