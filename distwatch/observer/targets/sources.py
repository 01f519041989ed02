"""What a viewer looks at: a live run, a run of our own observing, or a recorded one. One interface."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry, any_alive, read_entries, require_records
from distwatch.observer.lock import lock_holder, take_lock
from distwatch.observer.serving import NOTHING_WRITTEN
from distwatch.observer.targets.linked import find_linked
from distwatch.observer.targets.live import LiveRun, SourceLost
from distwatch.observer.targets.ray_targets import RayMembers, members_of, with_members
from distwatch.observer.targets.runs import find_run, find_run_or_pid
from distwatch.probes import discovery
from distwatch.runfolder import RunFolder, make_private
from distwatch.state.events import ProcessSighted
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

__all__ = [
    "EmbeddedRun", "LiveRun", "RecordedRun", "RunSource", "SourceLost", "open_source",
]  # fmt: skip


class RunSource(Protocol):
    """A run to look at. `state` changes only inside `poll` and `seek`.

    Attributes:
        note: where it comes from, for the header: `observer pid 123`, `replay`, ….
        span: first and last time (ns) of a recording; None while it is live.
        cursor_ns: where in the recording `state` stands.
    """

    run_id: str
    live: bool
    note: str
    state: RunState
    span: tuple[int, int] | None
    cursor_ns: int

    async def open(self) -> None: ...
    async def poll(self) -> bool: ...
    async def dump(self) -> str: ...
    def seek(self, time_ns: int) -> None: ...
    async def close(self) -> None: ...


def open_source(target: str, root: str) -> RunSource:
    """The best way to look at what a person names: PID, run id, folder or actor.

    A live run is looked at through its observer, or observed here where it has none; an ended
    one is a recording; a process that no run knows is observed from outside.

    Raises:
        NoSuchTarget: there is nothing of that name.
        AttachDenied: it belongs to another user.
    """
    if not target.isdigit() and (linked := find_linked(target, root)) is not None:
        return linked
    found = find_run_or_pid(target, root)
    if isinstance(found, int):
        return _foreign(found, root)
    folder = found or find_run(target, root)  # which says what there is
    if lock_holder(folder) is not None:
        return LiveRun(folder)
    if any_alive(folder):
        return EmbeddedRun(folder, "embedded: this run has no observer")
    return RecordedRun(folder)


def _foreign(pid: int, root: str) -> RunSource:
    """A job that never heard of distwatch: read from outside."""
    sighted = discovery.job_of(pid)
    members = members_of(pid)
    sighted = with_members(sighted, members)
    ranks = [process for process in sighted if process.role in ("rank", "launcher")]
    if not ranks and not any(
        "python" in process.command[0] for process in sighted if process.command
    ):
        command = " ".join(sighted[0].command[:3]) if sighted else "?"
        raise NoSuchTarget(
            f"process {pid} ({command}) is neither Python nor part of a job",
            advice="Give the pid of a rank, its launcher or a dataloader worker; `distwatch ps` lists runs.",
        )
    folder = RunFolder(os.path.join(root, f"attached-{pid}"))
    folder.create()
    note = "from outside: this job runs without distwatch"
    return EmbeddedRun(folder, note, sighted, members)


class RecordedRun:
    """A run from disk, at its end first; `seek` goes to any moment of it."""

    live = False

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run_id = folder.run_id
        self.note = "recorded"
        self.state = RunState(run_id=folder.run_id)
        self.span: tuple[int, int] | None = None
        self.cursor_ns = 0
        self._entries: list[Entry] = []
        self._changed = True

    async def open(self) -> None:
        """Reads everything; raises PartialData where there is nothing."""
        require_records(self.folder)
        self._entries = read_entries(self.folder, ends=True)
        times = [entry.time_ns for entry in self._entries if entry.time_ns]
        self.span = (min(times), max(times))
        self.seek(self.span[1])

    async def poll(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    async def dump(self) -> str:
        return "a recorded run cannot be dumped: `distwatch report` writes what is on disk"

    def seek(self, time_ns: int) -> None:
        """Folds the recording up to that time."""
        first, last = self.span or (0, 0)
        self.cursor_ns = max(first, min(time_ns, last))
        state = RunState(run_id=self.run_id)
        for entry in self._entries:
            if entry.time_ns > self.cursor_ns:
                break
            reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
        self.state = state
        self._changed = True

    async def close(self) -> None:
        """Nothing to give back."""


class EmbeddedRun:
    """An observer inside the viewer, where none runs or none can."""

    live = True

    def __init__(
        self,
        folder: RunFolder,
        note: str,
        sighted: list[ProcessSighted] | None = None,
        members: RayMembers | None = None,
    ) -> None:
        self.folder = folder
        self.run_id = folder.run_id
        self.note = note
        self.span: tuple[int, int] | None = None
        self.cursor_ns = 0
        self.state = RunState(run_id=folder.run_id)
        self._sighted = sighted or []
        self._members = members
        self._observer: Observer | None = None
        self._task: asyncio.Task[str] | None = None
        self._lock: int | None = None
        self._changed = False

    async def open(self) -> None:
        """Begins to observe, without writing where it may not write.

        Raises:
            AttachDenied: the folder cannot even be read.
        """
        try:
            make_private(self.folder.path)
            self._lock = take_lock(self.folder)
        except OSError as error:
            if not os.access(self.folder.path, os.R_OK | os.X_OK):
                raise AttachDenied(
                    f"{self.folder.path} cannot be read: {error.strerror or error}",
                    advice="Run as the job's user, or set DISTWATCH_DIR to a folder of your own.",
                ) from error
            self.note += "; nothing is kept, its folder cannot be written"
        self._observer = Observer(self.folder, embedded=True, writable=self._lock is not None)
        self._observer.viewers = 1
        for sighted in self._sighted:
            self._observer.tracking.add_sighting(sighted)
        if self._members is not None:
            self._observer.cluster.know(self._members.raylets, [self._members.job])
        self.state = self._observer.state
        self._observer.sinks.append(self._note_change)
        self._task = asyncio.create_task(self._observer.run())
        await self._observer.inspection.begin("attached", {})

    async def poll(self) -> bool:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error, self._task = self._task.exception(), None
            if error is not None:
                raise SourceLost(f"the embedded observer failed: {error}") from error
        changed, self._changed = self._changed, False
        return changed

    async def wait(self, timeout_s: float) -> None:
        """Returns after a tick of the observer, or after `timeout_s`."""
        await asyncio.sleep(min(timeout_s, 0.25))

    async def dump(self) -> str:
        if self._observer is None:
            return "nothing is observed yet"
        path = await self._observer.dump("a person asked")
        return f"incident written to {path}" if path else NOTHING_WRITTEN

    def seek(self, time_ns: int) -> None:
        """A live run has no other moment than now."""

    async def close(self) -> None:
        if self._observer is not None and self._task is not None:
            self._observer.stop()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _note_change(self, _: Entry) -> None:
        self._changed = True
