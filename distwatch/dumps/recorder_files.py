"""Dumps that ranks left on this host, as an observer's events: read as an import reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from distwatch.dumps.imported import RankDump, key_of, streams_of
from distwatch.dumps.recorder import read_recorder_dump
from distwatch.errors import DistwatchError
from distwatch.probes.recorder_files import LeftDump
from distwatch.state import events as ev


class Unreadable(DistwatchError):
    """A file that is no dump."""


def read_left_dump(global_rank: int, left: LeftDump) -> RankDump:
    """One file.

    Raises:
        Unreadable: it is damaged, or something else.
    """
    try:
        recorder = read_recorder_dump(left.content)
    except Exception as error:
        # A damaged or hostile file fails in any of a dozen ways.
        raise Unreadable(f"{left.path}: {error}"[:300]) from None
    return RankDump(global_rank=global_rank, taken_ns=left.written_wall_ns, recorder=recorder)


def events_of_dumps(
    dumps: Iterable[RankDump], paths: Mapping[int, str], keys: Mapping[int, str], wall_offset: int
) -> list[ev.RecorderFileRead]:
    """One event for each rank. The dumps are read together: gloo's list no members.

    Args:
        paths, keys: by global rank, its file and its process.
        wall_offset: what the host's monotonic clock lacks to the wall clock, in ns.
    """
    by_key = {key_of(dump): dump for dump in dumps}
    outside, *streams = streams_of(list(by_key.values()), {})
    pulses = {
        event.process: event for _, event in outside.events if isinstance(event, ev.PulseRead)
    }
    found = []
    for stream in streams:
        dump = by_key[stream.header.stream]
        told = [event for _, event in stream.events]
        dumped = next((one for one in told if isinstance(one, ev.CollectivesDumped)), None)
        pulse = pulses.get(stream.header.stream)
        if dumped is None or pulse is None:
            continue
        found.append(
            ev.RecorderFileRead(
                process=keys[dump.global_rank],
                path=paths[dump.global_rank],
                taken_ns=dump.taken_ns - wall_offset,
                groups=tuple(one for one in told if isinstance(one, ev.GroupCreated)),
                dumped=dumped,
                pulse=_by_monotonic(pulse.pulse, wall_offset),
                operations=tuple(
                    msgspec.structs.replace(
                        one,
                        entered_ns=one.entered_ns - wall_offset,
                        left_ns=one.left_ns and one.left_ns - wall_offset,
                    )
                    for one in pulse.operations
                ),
                sites={one.number: one.site for one in told if isinstance(one, ev.SiteSeen)},
            )
        )
    return found


def _by_monotonic(pulse: ev.Pulse, wall_offset: int) -> ev.Pulse:
    groups = tuple(
        msgspec.structs.replace(one, changed_ns=one.changed_ns - wall_offset)
        for one in pulse.groups
    )
    # It is no heartbeat of an agent.
    return msgspec.structs.replace(pulse, groups=groups, beat=0, beat_ns=0)
