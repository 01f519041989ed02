"""torch's flight recorder: how far each group is, polled by the agent's thread.

The poll takes microseconds and never drops the GIL, so it is safe at exit and in a fork. A
full dump holds the GIL for tens of milliseconds: on suspicion or request only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from distwatch.integrations.torch_collectives import Counts
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.state.events import Collective, CollectivesDumped, GroupProgress

DUMPED_PER_GROUP = 64
_DUMPS = {"gloo": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}


class FlightRecorder:
    """Progress and dumps of every recorder that this torch has."""

    def __init__(self, known: KnownGroups, counts: Counts) -> None:
        self._known = known
        self._counts = counts
        self._names: dict[tuple[str, str], str] = {}
        self._last: dict[str, GroupProgress] = {}
        self._dumps = _find_dumps()

    def attach(self, agent: Any) -> None:
        """Makes the agent's thread poll; once."""
        if self.progress not in agent.progress_sources:
            agent.progress_sources.append(self.progress)
            agent.dump_sources.append(self.dump)
        agent.recorder = (
            f"flight recorder ({', '.join(self._dumps)})"
            if self._dumps
            else "no flight recorder in this torch: calls from Python are counted, not completions"
        )

    def progress(self) -> list[GroupProgress]:
        """The numbers of every group that has any, as of now."""
        found: dict[str, GroupProgress] = {}
        for backend, dump in self._dumps.items():
            status = json.loads(dump(includeCollectives=False)).get("pg_status") or {}
            for pg_id, numbers in status.items():
                if name := self._name(backend, pg_id):
                    found[name] = self._collectives_only(name, numbers)
        for name, seq in list(self._counts.collectives.items()):
            # No recorder, or a full one: what Python called is all that is known.
            if name not in found:
                found[name] = GroupProgress(pg_name=name, enqueued=seq)
        return [self._since(progress) for progress in found.values()]

    def _collectives_only(self, name: str, numbers: dict[str, str]) -> GroupProgress:
        """The recorder numbers p2p along with collectives, which ranks do unequally often."""
        enqueued = int(numbers.get("last_enqueued_collective", -1))
        completed = int(numbers.get("last_completed_collective", -1))
        sent = self._counts.p2p.get(name, 0)
        if sent and enqueued > 0:
            before = self._counts.p2p_before.get(name, 0)
            called = self._counts.collectives.get(name, 0)
            outside = before if enqueued - before == called else sent
            waiting = enqueued - completed
            enqueued -= outside
            completed = enqueued - waiting
        return GroupProgress(pg_name=name, enqueued=enqueued, completed=completed, p2p=sent or -1)

    def _since(self, progress: GroupProgress) -> GroupProgress:
        last = self._last.get(progress.pg_name)
        same = last is not None and (last.enqueued, last.completed, last.p2p) == (
            progress.enqueued,
            progress.completed,
            progress.p2p,
        )
        if last is not None and same:
            return last
        changed = GroupProgress(
            pg_name=progress.pg_name,
            enqueued=progress.enqueued,
            completed=progress.completed,
            p2p=progress.p2p,
            changed_ns=time.monotonic_ns(),
        )
        self._last[progress.pg_name] = changed
        return changed

    def _name(self, backend: str, pg_id: str) -> str:
        learned = self._names.get((backend, pg_id))
        if learned is not None:
            return learned
        created = self._known.created.get(backend, [])
        return created[int(pg_id)] if pg_id.isdigit() and int(pg_id) < len(created) else ""

    def dump(self, reason: str) -> CollectivesDumped:
        """The newest entries of each group, and what they teach about the recorder's numbering."""
        if not self._dumps:
            return CollectivesDumped(
                reason=reason, not_observed="this torch has no flight recorder"
            )
        entries: list[Collective] = []
        for backend, dump in self._dumps.items():
            by_group: dict[str, list[Collective]] = {}
            for raw in json.loads(dump()).get("entries") or []:
                entry = _entry(raw)
                self._names[backend, str(raw.get("pg_id"))] = entry.pg_name
                by_group.setdefault(entry.pg_name, []).append(entry)
            for group in by_group.values():
                entries += group[-DUMPED_PER_GROUP:]
        return CollectivesDumped(reason=reason, entries=tuple(entries))


def _find_dumps() -> dict[str, Callable[..., Any]]:
    c10d = sys.modules.get("torch._C._distributed_c10d")
    found = {backend: getattr(c10d, name, None) for backend, name in _DUMPS.items()}
    return {backend: dump for backend, dump in found.items() if dump is not None}


def _entry(raw: dict[str, Any]) -> Collective:
    name, description = (*map(str, raw.get("process_group") or ("?",)), "")[:2]
    return Collective(
        pg_name=name,
        pg_desc=description,
        seq=int(raw.get("collective_seq_id") or 0),
        op=str(raw.get("profiling_name", "")),
        is_p2p=bool(raw.get("is_p2p")),
        retired=bool(raw.get("retired")),
        state=str(raw.get("state", "")),
        input_sizes=_sizes(raw.get("input_sizes")),
        output_sizes=_sizes(raw.get("output_sizes")),
        input_dtypes=tuple(str(dtype) for dtype in raw.get("input_dtypes") or ()),
        created_wall_ns=int(raw.get("time_created_ns") or 0),
        timeout_ms=raw.get("timeout_ms"),
    )


def _sizes(raw: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in size) for size in raw or ())
