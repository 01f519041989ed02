"""Dumps of a job's ranks, as the events that a run's own journals would hold."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.dumps.recorder import Entry, RecorderDump
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader, process_key
from distwatch.state.identity import Identity
from distwatch.state.recorder_entries import Collective

HOST = "imported"
PER_GROUP = 64
AT_MOST = 1000
WAITS_FROM_S = 5.0
"""Dumps are taken of a job that hangs: a wait this long counts as a hang."""
_OPERATIONS = 192
_SECOND = 1_000_000_000

Group = tuple[str, str]
"""Name and description."""


class RankDump(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for one rank. Times are wall clock ns."""

    global_rank: int
    taken_ns: int
    """When it was written, as far as its file shows."""
    recorder: RecorderDump | None = None
    threads: tuple[ev.ThreadStack, ...] = ()
    pid: int = 0


class Stream(msgspec.Struct, kw_only=True):
    """A future journal: its header, and its events with their times."""

    header: FileHeader
    events: list[tuple[int, ev.Event]] = []


def streams_of(dumps: list[RankDump], refused: dict[str, str]) -> list[Stream]:
    """One stream for each rank, and one for what is seen from outside.

    Args:
        dumps: one for each rank for which anything was found.
        refused: files that were not read, and why.
    """
    now_ns = _now_ns(dumps)
    members = _members(dumps)
    world = _world(dumps, members)
    outside = Stream(header=header_of("observer:imported", 0))
    streams = [outside]
    for dump in sorted(dumps, key=lambda one: one.global_rank):
        stream = Stream(header=header_of(key_of(dump), dump.pid))
        streams.append(stream)
        began_ns = min((e.time_created_ns for e in _entries(dump)), default=now_ns) - _SECOND
        _tell_rank(stream, dump, began_ns, world)
        if dump.recorder is not None:
            _tell_recorder(stream, outside, dump, members, now_ns)
        else:
            why = "no flight recorder dump of this rank was found"
            outside.events.append((now_ns, unseen("flight recorder", why, key_of(dump))))
        if dump.threads:
            taken = ev.StackTaken(
                process=key_of(dump), threads=dump.threads, source="py-spy, imported"
            )
            outside.events.append((now_ns, taken))
        elif any(other.threads for other in dumps):
            why = "no py-spy dump of this rank was found"
            outside.events.append((now_ns, unseen("stack", why, key_of(dump))))
    for name, why in sorted(refused.items()):
        outside.events.append((now_ns, unseen(name, why)))
    if not any(
        config.members for d in dumps if d.recorder for config in d.recorder.pg_config.values()
    ):
        why = "these dumps do not list them: they were derived from the ranks that used a group"
        outside.events.append((now_ns, unseen("members of the groups", why)))
    outside.events.append((now_ns, ev.Ticked(host=HOST)))
    return streams


def key_of(dump: RankDump) -> str:
    """The process key of a rank's stream."""
    return process_key(HOST, dump.pid, dump.global_rank)


def header_of(stream: str, pid: int) -> FileHeader:
    """The header of an imported stream."""
    return FileHeader(
        stream=stream, host=HOST, pid=pid, start_ticks=0, boot_id="", wall_offset_ns=0, salt=1
    )


def unseen(what: str, why: str, process: str | None = None) -> ev.NotObserved:
    """That something is not among what was imported, and why."""
    return ev.NotObserved(host=HOST, what=what, why=why, process=process)


def _entries(dump: RankDump) -> tuple[Entry, ...]:
    return dump.recorder.entries if dump.recorder else ()


def _now_ns(dumps: list[RankDump]) -> int:
    """The time of the dumps: no later than the last one was written."""
    newest = max((e.time_created_ns for dump in dumps for e in _entries(dump)), default=0)
    taken = max((dump.taken_ns for dump in dumps), default=0)
    # A file that lost its time in a copy may look older than what it describes.
    return taken if taken >= newest else newest + int((WAITS_FROM_S + 1) * _SECOND)


def _members(dumps: list[RankDump]) -> dict[Group, tuple[int, ...]]:
    """The members of each group, as the dumps list them; else the ranks that used it."""
    told: dict[str, tuple[int, ...]] = {}
    used: dict[Group, set[int]] = {}
    for dump in dumps:
        for name, config in (dump.recorder.pg_config if dump.recorder else {}).items():
            if config.members:
                told[config.name or name] = config.members
        for entry in _entries(dump):
            used.setdefault(entry.process_group, set()).add(dump.global_rank)
    everyone = {rank for ranks in told.values() for rank in ranks} | {d.global_rank for d in dumps}
    return {
        group: told.get(group[0]) or tuple(sorted(everyone if group[1] == "default_pg" else ranks))
        for group, ranks in used.items()
    }


def _world(dumps: list[RankDump], members: dict[Group, tuple[int, ...]]) -> int:
    highest = max((rank for ranks in members.values() for rank in ranks), default=0)
    return max(highest, *(dump.global_rank for dump in dumps)) + 1


def _tell_rank(stream: Stream, dump: RankDump, began_ns: int, world: int) -> None:
    identity = Identity(global_rank=dump.global_rank, world_size=world)
    started = ev.ProcessStarted(
        host=HOST,
        pid=dump.pid,
        start_ticks=dump.global_rank,
        ppid=0,
        role="rank",
        identity=identity,
        deadlines={"collective": WAITS_FROM_S},
    )
    confirmed = ev.IdentityConfirmed(global_rank=dump.global_rank, world_size=world)
    stream.events += [(began_ns, started), (began_ns, confirmed)]


def _tell_recorder(
    stream: Stream,
    outside: Stream,
    dump: RankDump,
    members: dict[Group, tuple[int, ...]],
    now_ns: int,
) -> None:
    by_group: dict[Group, list[Entry]] = {}
    for entry in _entries(dump):
        by_group.setdefault(entry.process_group, []).append(entry)
    began_ns = stream.events[0][0]
    for group, entries in by_group.items():
        stream.events.append((began_ns, _created(group, entries, members[group])))
    share = min(PER_GROUP, max(AT_MOST // max(len(by_group), 1), 1))
    kept = [entry for entries in by_group.values() for entry in entries[-share:]]
    dumped = ev.CollectivesDumped(
        reason="imported", entries=tuple(_collective(entry) for entry in kept)
    )
    sites: dict[ev.Site, int] = {}
    whole = _is_whole(dump)
    newest = sorted(_entries(dump), key=lambda entry: entry.record_id)[-_OPERATIONS:]
    operations = [_operation(entry, sites, by_group, whole) for entry in newest]
    stream.events += [
        (now_ns, ev.SiteSeen(number=number, site=site)) for site, number in sites.items()
    ]
    stream.events.append((now_ns, dumped))
    pulse = ev.Pulse(
        beat=1,
        beat_ns=now_ns,
        groups=tuple(_progress(dump, group, entries) for group, entries in by_group.items()),
        # Once the ring has dropped its beginning, calls can no longer be counted from there.
        peers=tuple(_peers(_entries(dump))) if whole else (),
        recorder="imported dump",
    )
    outside.events.append(
        (now_ns, ev.PulseRead(process=key_of(dump), pulse=pulse, operations=tuple(operations)))
    )


def _created(group: Group, entries: list[Entry], members: tuple[int, ...]) -> ev.GroupCreated:
    timeouts = [entry.timeout_ms for entry in entries if entry.timeout_ms]
    return ev.GroupCreated(
        pg_name=group[0],
        pg_desc=group[1],
        backend=entries[0].profiling_name.partition(":")[0],
        members=members,
        timeout_s=timeouts[-1] / 1000 if timeouts else None,
    )


def _progress(dump: RankDump, group: Group, entries: list[Entry]) -> ev.GroupProgress:
    """A rank's progress in a group, by its entries: only they leave out p2p everywhere."""
    collectives = [entry for entry in entries if not entry.is_p2p]
    unfinished = [entry for entry in collectives if not entry.over]
    enqueued = max((entry.seq for entry in collectives), default=-1)
    completed = min((entry.seq for entry in unfinished), default=enqueued + 1) - 1
    recorder = dump.recorder
    status = recorder.pg_status.get(str(entries[0].pg_id)) if recorder else None
    if status is not None and not any(entry.is_p2p for entry in entries):
        # The status continues where the ring has dropped entries, and has what NCCL's states lack.
        enqueued = max(enqueued, status.last_enqueued_collective)
        completed = max(completed, status.last_completed_collective)
    changed = min((entry.time_created_ns for entry in unfinished), default=0)
    changed = changed or max((entry.time_created_ns for entry in collectives), default=0)
    return ev.GroupProgress(
        pg_name=group[0], enqueued=enqueued, completed=completed, changed_ns=changed
    )


def _collective(entry: Entry) -> Collective:
    return Collective(
        pg_name=entry.process_group[0],
        pg_desc=entry.process_group[1],
        seq=entry.seq,
        op=entry.profiling_name,
        is_p2p=entry.is_p2p,
        retired=entry.retired,
        state=entry.state,
        input_sizes=entry.input_sizes,
        output_sizes=entry.output_sizes,
        input_dtypes=entry.input_dtypes,
        created_wall_ns=entry.time_created_ns,
        timeout_ms=entry.timeout_ms,
    )


def _operation(
    entry: Entry, sites: dict[ev.Site, int], by_group: dict[Group, list[Entry]], whole: bool
) -> ev.Operation:
    sizes = entry.input_sizes or entry.output_sizes
    peers = entry.peers
    return ev.Operation(
        number=entry.record_id + 1,
        op=peers[0] if peers else operation_name(entry.profiling_name),
        pg_name=entry.process_group[0],
        seq=-1 if entry.is_p2p else entry.seq,
        site=_site(entry, sites),
        entered_ns=entry.time_created_ns,
        left_ns=entry.time_created_ns if entry.over else 0,
        numel=math.prod(sizes[0]) if sizes else -1,
        dtype=entry.input_dtypes[0].lower() if entry.input_dtypes else "",
        peer=peers[1] if peers else -1,
        p2p_seq=_place(entry, by_group[entry.process_group]) if peers and whole else -1,
    )


def _place(entry: Entry, entries: Iterable[Entry]) -> int:
    """The 1-based index of this send or recv among those of its kind, as far as the ring reaches back."""
    same = (e for e in entries if e.peers == entry.peers and e.record_id <= entry.record_id)
    return sum(1 for _ in same)


def _is_whole(dump: RankDump) -> bool:
    return min((entry.record_id for entry in _entries(dump)), default=0) == 0


def _peers(entries: Iterable[Entry]) -> Iterable[ev.PeerProgress]:
    counts: dict[tuple[str, str, int], int] = {}
    for entry in entries:
        if entry.peers is not None:
            op, peer = entry.peers
            key = (entry.process_group[0], op, peer)
            counts[key] = counts.get(key, 0) + 1
    for (name, op, peer), posted in counts.items():
        yield ev.PeerProgress(pg_name=name, op=op, peer=peer, posted=posted)  # type: ignore[arg-type]


def _site(entry: Entry, sites: dict[ev.Site, int]) -> int:
    if not entry.frames:
        return 0
    frames = tuple(
        ev.Frame(function=f.name, file=f.filename, line=f.line) for f in reversed(entry.frames)
    )
    users = user_frame(frames)
    if users is None:
        return 0
    site = ev.Site(file=users.file, line=users.line, function=users.function)
    return sites.setdefault(site, len(sites) + 1)
