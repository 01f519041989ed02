"""Dumps of a job's ranks, as the events that a run's own journals would hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

import msgspec

from distwatch.diagnosis.facts.device_work import runs_on_device
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.dumps.group_calls import Group, GroupCalls, calls_of
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
MISSING_TOLD = 1024
_OPERATIONS = 192
_SECOND = 1_000_000_000


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
    job = JobDumps(dumps)
    now_ns = job.now_ns
    outside = Stream(header=header_of("observer:imported", 0))
    streams = [outside]
    for dump in sorted(dumps, key=lambda one: one.global_rank):
        stream = Stream(header=header_of(key_of(dump), dump.pid))
        streams.append(stream)
        began_ns = min((e.time_created_ns for e in _entries(dump)), default=now_ns) - _SECOND
        _tell_rank(stream, dump, began_ns, job.world)
        if dump.recorder is not None:
            _tell_recorder(stream, outside, dump, dump.recorder, job)
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
    for rank in islice(job.missing, MISSING_TOLD):
        outside.events.append((now_ns, unseen(f"rank {rank}", "no dump of this rank was found")))
    if not job.lists_members:
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


class JobDumps:
    """What the dumps of all ranks tell together.

    Attributes:
        now_ns: when the dumps were taken, at the earliest.
        world: one more than the highest rank that is named.
        is_timed: whether the recorders know when calls start.
    """

    def __init__(self, dumps: list[RankDump]) -> None:
        self._listed: dict[str, tuple[int, ...]] = {}
        self._used: dict[Group, set[int]] = {}
        self._backends: dict[Group, str] = {}
        self._calls: dict[int, dict[Group, GroupCalls]] = {}
        self._p2p: set[Group] = set()
        self._ranks = {dump.global_rank for dump in dumps}
        self.is_timed = any(dump.recorder.is_timed for dump in dumps if dump.recorder)
        for dump in dumps:
            if dump.recorder is not None:
                self._read(dump.global_rank, dump.recorder)
        self._everyone = tuple(sorted({r for m in self._listed.values() for r in m} | self._ranks))
        self.world = max(self._everyone, default=0) + 1
        self.now_ns = taken_at_ns(dumps)

    @property
    def lists_members(self) -> bool:
        return bool(self._listed)

    @property
    def missing(self) -> Iterable[int]:
        """The ranks for which nothing was found."""
        return (rank for rank in range(self.world) if rank not in self._ranks)

    def _read(self, rank: int, recorder: RecorderDump) -> None:
        for name, config in recorder.pg_config.items():
            if config.members:
                self._listed[config.name or name] = config.members
        for entry in recorder.entries:
            group = entry.process_group
            if group not in self._backends:
                self._backends[group] = entry.profiling_name.partition(":")[0]
            self._used.setdefault(group, set()).add(rank)
        self._calls[rank] = calls_of(recorder)
        self._p2p |= {group for group, calls in self._calls[rank].items() if calls.shows_p2p}

    def backend(self, group: Group) -> str:
        """Which backend ran its calls; a group without any is listed by NCCL alone."""
        return self._backends.get(group) or "nccl"

    def members(self, group: Group, recorder: RecorderDump) -> tuple[int, ...]:
        """Its members as this dump lists them, or another one; else the ranks that used it."""
        own = recorder.pg_config.get(group[0])
        listed = (own.members if own else ()) or self._listed.get(group[0])
        used = self._everyone if group[1] == "default_pg" else self._used.get(group, ())
        return listed or tuple(sorted(used))

    def calls(self, rank: int, recorder: RecorderDump) -> dict[Group, GroupCalls]:
        """A rank's groups; without those of which it has only numbers that may be of sends and recvs.

        One rank's status is enough to know a group of both kinds: another rank may have no call open there.
        """
        return {
            group: msgspec.structs.replace(calls, counts_p2p=group in self._p2p)
            for group, calls in self._calls[rank].items()
            if calls.entries or (calls.status and group not in self._p2p and recorder.pg_config)
        }


def taken_at_ns(dumps: Iterable[RankDump]) -> int:
    """When dumps were taken, at the earliest; the time of their files where they have none of their own.

    A hanging job's dumps are written when its first timeout has passed, or later by hand.
    """
    newest, expired, written = 0, 0, 0
    for dump in dumps:
        written = max(written, dump.taken_ns)
        for entry in _entries(dump):
            newest = max(newest, entry.time_created_ns, entry.time_discovered_completed_ns or 0)
            if entry.over or entry.is_p2p or not entry.timeout_ms:
                continue
            if runs_on_device(entry.profiling_name.partition(":")[0]):
                passes = entry.time_created_ns + entry.timeout_ms * 1_000_000
                expired = min(expired or passes, passes)
    return max(newest + int((WAITS_FROM_S + 1) * _SECOND), expired) if newest else written


def _tell_rank(stream: Stream, dump: RankDump, began_ns: int, world: int) -> None:
    # No other host has ranks: nobody looks for what it may have seen.
    identity = Identity(global_rank=dump.global_rank, world_size=world, local_world_size=world)
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
    stream: Stream, outside: Stream, dump: RankDump, recorder: RecorderDump, job: JobDumps
) -> None:
    now_ns = job.now_ns
    began_ns = stream.events[0][0]
    known = job.calls(dump.global_rank, recorder)
    for group, calls in known.items():
        stream.events.append(
            (began_ns, _created(calls, job.members(group, recorder), job.backend(group)))
        )
    share = min(PER_GROUP, max(AT_MOST // max(len(known), 1), 1))
    kept = [
        (entry, calls.is_over(entry)) for calls in known.values() for entry in calls.newest(share)
    ]
    timed = job.is_timed
    kept.sort(key=lambda one: one[0].record_id)
    dumped = ev.CollectivesDumped.of(
        "imported", tuple(_collective(entry, over, timed and not over) for entry, over in kept)
    )
    by_group = {group: calls.entries for group, calls in known.items()}
    sites: dict[ev.Site, int] = {}
    whole = min((entry.record_id for entry in recorder.entries), default=0) == 0
    newest = sorted(recorder.entries, key=lambda entry: entry.record_id)[-_OPERATIONS:]
    operations = [_operation(entry, sites, by_group, whole) for entry in newest]
    stream.events += [
        (now_ns, ev.SiteSeen(number=number, site=site)) for site, number in sites.items()
    ]
    stream.events.append((now_ns, dumped))
    pulse = ev.Pulse(
        beat=1,
        beat_ns=now_ns,
        groups=tuple(calls.progress() for calls in known.values()),
        # Once the ring has dropped its beginning, calls can no longer be counted from there.
        peers=tuple(_peers(recorder.entries)) if whole else (),
        recorder="imported dump",
    )
    outside.events.append(
        (now_ns, ev.PulseRead(process=key_of(dump), pulse=pulse, operations=tuple(operations)))
    )


def _created(calls: GroupCalls, members: tuple[int, ...], backend: str) -> ev.GroupCreated:
    timeouts = [entry.timeout_ms for entry in calls.entries if entry.timeout_ms]
    return ev.GroupCreated(
        pg_name=calls.group[0],
        pg_desc=calls.group[1],
        backend=backend,
        members=members,
        timeout_s=timeouts[-1] / 1000 if timeouts else None,
    )


def _collective(entry: Entry, over: bool, timed: bool) -> Collective:
    return Collective(
        pg_name=entry.process_group[0],
        pg_desc=entry.process_group[1],
        seq=entry.p2p_seq_id if entry.is_p2p else entry.seq,
        op=entry.profiling_name,
        is_p2p=entry.is_p2p,
        retired=over,
        state=entry.state,
        input_sizes=entry.input_sizes,
        output_sizes=entry.output_sizes,
        input_dtypes=entry.input_dtypes,
        created_wall_ns=entry.time_created_ns,
        timeout_ms=entry.timeout_ms,
        timed=timed,
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
