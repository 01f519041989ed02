"""torch's flight recorder: the progress of each group, polled by the agent's thread.

The poll takes microseconds and never drops the GIL, so it is safe at exit and in a fork. A full dump
holds the GIL for tens of milliseconds, so it is made only on suspicion or request.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from distwatch.integrations.call_counts import Counts
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.state.bounds import whole_number
from distwatch.state.events import CollectivesDumped, GroupProgress
from distwatch.state.recorder_entries import Collective, completed_in, is_over, is_p2p_over

DUMPED_PER_GROUP = 64
DUMPED_AT_MOST = 1000
"""For all groups together, about 180 KB: the journal drops events above 256 KB."""
LOOKED_CLOSER_S = 2.0
"""After so long in one call, and each time after twice as long, the entries say whether it is over."""
_DUMPS = {"gloo": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}


class _Seen(msgspec.Struct):
    """What the recorder told last of a group, and what of it is passed on."""

    told: GroupProgress
    progress: GroupProgress
    look_ns: int
    """When its entries are worth reading, if it is in the same call then."""


class FlightRecorder:
    """Progress and dumps of every recorder in this torch."""

    def __init__(self, known: KnownGroups, counts: Counts) -> None:
        self._known = known
        self._counts = counts
        self._names: dict[tuple[str, str], str] = {}
        """Learned from a full dump: the recorder's number of a group → its name."""
        self._learned_of: set[tuple[str, str]] = set()
        self._gone: set[tuple[str, str]] = set()
        """Numbers of destroyed groups, which the recorder keeps reporting."""
        self._last: dict[str, _Seen] = {}
        self._dumps = _find_dumps()

    def attach(self, agent: Any) -> None:
        """Lets the agent's thread poll; idempotent."""
        if self.progress not in agent.progress_sources:
            agent.progress_sources.append(self.progress)
            agent.peer_sources.append(self._counts.newest_peers)
            agent.dump_sources.append(self.dump)
        agent.recorder = (
            f"flight recorder ({', '.join(self._dumps)})"
            if self._dumps
            else "no flight recorder in this torch: calls from Python are watched, not those from C++"
        )

    def progress(self) -> list[GroupProgress]:
        """The current numbers of every group that has any."""
        found: dict[str, GroupProgress] = {}
        counted = self._counts.counted()
        for backend in list(self._dumps):
            status = self._status(backend)
            if self._is_shifted(backend, status):
                self._learn(backend)
            # A name may be reused: only the newest group of that name is alive.
            for pg_id in sorted(status, key=_number):
                if name := self._name(backend, pg_id):
                    found[name] = self._collectives_only(name, status[pg_id])
        for progress in found.values():
            self._counts.agree(counted, progress)
        for name, seq in self._counts.last_collectives().items():
            # No recorder of this backend: only calls from Python are known.
            if name not in found:
                completed = self._counts.completed(name)
                found[name] = GroupProgress(pg_name=name, enqueued=seq, completed=completed)
        seen = [self._since(progress) for progress in found.values()]
        self._look_closer(seen)
        return [one.progress for one in seen]

    def forget(self, pg_name: str) -> None:
        """Stops reporting a destroyed group; all existing groups for ''."""
        for backend in list(self._dumps):
            for pg_id in self._status(backend):
                if not pg_name or self._name(backend, pg_id) == pg_name:
                    self._gone.add((backend, pg_id))
        self._last.pop(pg_name, None) if pg_name else self._last.clear()

    def _status(self, backend: str) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self._dumps[backend](includeCollectives=False))
        except (RuntimeError, TypeError, ValueError):
            # A recorder that does not work must not disable the other one.
            self._dumps.pop(backend, None)
            return {}
        return content.get("pg_status") or {}

    def _is_shifted(self, backend: str, status: dict[str, dict[str, Any]]) -> bool:
        """Whether the recorder's numbers are not simply the order of creation.

        A backend that was created without a process group also takes a number.
        """
        unnamed = {
            (backend, pg_id)
            for pg_id in status
            if (backend, pg_id) not in self._names
            and _number(pg_id) >= len(self._known.created.get(backend, []))
        }
        new = unnamed - self._learned_of - self._gone
        self._learned_of |= new
        return bool(new)

    def _learn(self, backend: str) -> None:
        """Reads the group names from a full dump, which holds the GIL."""
        for raw in json.loads(self._dumps[backend]()).get("entries") or []:
            self._names[backend, str(raw.get("pg_id"))] = _group_of(raw)[0]

    def _collectives_only(self, name: str, numbers: dict[str, Any]) -> GroupProgress:
        only = self._counts.without_p2p
        return GroupProgress(
            pg_name=name,
            enqueued=only(name, int(numbers.get("last_enqueued_collective", -1))),
            completed=only(name, int(numbers.get("last_completed_collective", -1))),
            p2p=self._counts.p2p.get(name, -1),
            started=only(name, int(numbers.get("last_started_collective", -1))),
        )

    def _since(self, told: GroupProgress) -> _Seen:
        seen = self._last.get(told.pg_name)
        if seen is None or told != seen.told:
            now_ns = time.monotonic_ns()
            # The ends of calls may be told in the wrong order, see `_look_closer`.
            known = min(seen.progress.completed if seen else -1, told.enqueued)
            completed = max(told.completed, known)
            changed = msgspec.structs.replace(told, completed=completed, changed_ns=now_ns)
            look_ns = now_ns + int(LOOKED_CLOSER_S * 1e9)
            seen = self._last[told.pg_name] = _Seen(told, changed, look_ns)
        return seen

    def _look_closer(self, seen: list[_Seen]) -> None:
        """Takes from the entries how far groups are that seem to have been in one call for long.

        gloo's threads note the ends of their calls in any order, so the last one noted may be an older
        one: on a busy host one in a hundred groups seems to wait in a call that is complete.
        """
        now_ns = time.monotonic_ns()
        of_gloo = self._known.created.get("gloo", ()) if "gloo" in self._dumps else ()
        due = [
            one
            for one in seen
            if one.progress.in_flight and now_ns >= one.look_ns and one.told.pg_name in of_gloo
        ]
        if not due:
            return
        groups = self._entries_of("gloo").values()
        over = completed_in(tuple(entry for group in groups for entry in group))
        for one in due:
            name, progress = one.told.pg_name, one.progress
            newest = min(self._counts.without_p2p(name, over.get(name, -1)), progress.enqueued)
            completed = max(progress.completed, newest)
            one.progress = msgspec.structs.replace(progress, completed=completed)
            one.look_ns = 2 * now_ns - progress.changed_ns

    def _name(self, backend: str, pg_id: str) -> str:
        if (backend, pg_id) in self._gone:
            return ""
        learned = self._names.get((backend, pg_id))
        if learned is not None:
            return learned
        created = self._known.created.get(backend, [])
        return created[_number(pg_id)] if 0 <= _number(pg_id) < len(created) else ""

    def dump(self, reason: str) -> CollectivesDumped:
        """The newest entries of each group; also learns the recorder's numbering from them."""
        if not self._dumps:
            return CollectivesDumped(
                reason=reason, not_observed="this torch has no flight recorder"
            )
        by_group = {
            number: entries
            for backend in list(self._dumps)
            for number, entries in self._entries_of(backend).items()
        }
        share = min(DUMPED_PER_GROUP, max(DUMPED_AT_MOST // max(len(by_group), 1), 1))
        entries = [entry for group in by_group.values() for entry in group[-share:]]
        return CollectivesDumped.of(reason, tuple(entries[:DUMPED_AT_MOST]))

    def _entries_of(self, backend: str) -> dict[tuple[str, str], list[Collective]]:
        """The entries of each living group of a backend; learns its numbering from them."""
        content = json.loads(self._dumps[backend]())
        by_group: dict[tuple[str, str], list[Collective]] = {}
        newest: dict[str, int] = {}
        timed = any(_has_started(raw) for raw in content.get("entries") or [])
        for raw in content.get("entries") or []:
            number = (backend, str(raw.get("pg_id")))
            entry = _entry(raw, timed)
            newest[number[1]] = int(raw.get("collective_seq_id") or 0)
            self._names[number] = entry.pg_name
            if number not in self._gone:
                by_group.setdefault(number, []).append(entry)
        for pg_id, status in (content.get("pg_status") or {}).items():
            entries_of = by_group.get((backend, str(pg_id)), [])
            _settle(entries_of, newest.get(str(pg_id), -1), status)
        return by_group


def _settle(entries: list[Collective], newest: int, status: dict[str, Any]) -> None:
    """Marks the sends and recvs that have completed by the status of their group."""
    completed = int(status.get("last_completed_collective", -1))
    for place, entry in enumerate(entries):
        if entry.is_p2p and not entry.over and is_p2p_over(entry.seq, newest, completed):
            entries[place] = msgspec.structs.replace(entry, retired=True)


def _number(pg_id: str) -> int:
    number = whole_number(pg_id)
    return -1 if number is None else number


def _group_of(raw: dict[str, Any]) -> tuple[str, str]:
    name, description = (*map(str, raw.get("process_group") or ("?",)), "")[:2]
    return name, description


def records_gloo() -> bool:
    """Whether this torch's recorder sees gloo: from 2.8 on."""
    return "gloo" in _find_dumps()


def _find_dumps() -> dict[str, Callable[..., Any]]:
    c10d = sys.modules.get("torch._C._distributed_c10d")
    found = {backend: getattr(c10d, name, None) for backend, name in _DUMPS.items()}
    return {backend: dump for backend, dump in found.items() if dump is not None}


def _has_started(raw: dict[str, Any]) -> bool:
    began = raw.get("time_discovered_started_ns")
    # torch's hooks learn only of a call's end, and write that time as both.
    return raw.get("state") == "started" or bool(
        began and began != raw.get("time_discovered_completed_ns")
    )


def _entry(raw: dict[str, Any], timed: bool) -> Collective:
    name, description = _group_of(raw)
    return Collective(
        pg_name=name,
        pg_desc=description,
        seq=int(raw.get("p2p_seq_id" if raw.get("is_p2p") else "collective_seq_id") or 0),
        op=str(raw.get("profiling_name", "")),
        is_p2p=bool(raw.get("is_p2p")),
        retired=bool(raw.get("retired")),
        state=str(raw.get("state", "")),
        input_sizes=_sizes(raw.get("input_sizes")),
        output_sizes=_sizes(raw.get("output_sizes")),
        input_dtypes=tuple(str(dtype) for dtype in raw.get("input_dtypes") or ()),
        created_wall_ns=int(raw.get("time_created_ns") or 0),
        timeout_ms=raw.get("timeout_ms"),
        timed=timed and not is_over(bool(raw.get("retired")), str(raw.get("state", ""))),
    )


def _sizes(raw: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in size) for size in raw or ())
