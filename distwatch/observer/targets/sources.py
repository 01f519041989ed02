"""A run that the viewer reads from disk, or observes itself."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Literal

from distwatch.errors import AttachDenied
from distwatch.garbage import without_collections
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import (
    Entry,
    read_entries,
    write_attached,
)
from distwatch.observer.journals.run_state import load_run
from distwatch.observer.lock import free_lock, take_lock
from distwatch.observer.serving import dump_text
from distwatch.observer.targets.kept_report import read_kept_findings
from distwatch.observer.targets.ray_jobs import RayJob
from distwatch.observer.targets.run_source import RunSource, SourceLost
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder, make_private
from distwatch.state.events import ProcessSighted
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce


class RecordedRun(RunSource):
    """A run from disk, first at its end; `seek` goes to any other moment."""

    live = False

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, "recorded")
        self._entries: list[Entry] = []
        """Read at the first `seek` to another moment: the end needs only the state."""
        self._changed = True

    async def open(self) -> None:
        """Reads its end; raises PartialData where there are no records."""
        with without_collections():
            self.findings = read_kept_findings(self.folder)
            run = load_run(self.folder)
            gc.freeze()  # all of it stays
        self.state, self.span = run.state, (run.first_ns, run.last_ns)
        self.cursor_ns = run.last_ns

    async def poll(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    async def dump(self) -> str:
        return "a recorded run cannot be dumped: `distwatch report` writes what is on disk"

    def seek(self, time_ns: int) -> None:
        """Folds the recording up to that time."""
        self._entries = self._entries or read_entries(self.folder, ends=True)
        first, last = self.span or (0, 0)
        self.cursor_ns = max(first, min(time_ns, last))
        state = RunState(run_id=self.run_id)
        for entry in self._entries:
            if entry.time_ns > self.cursor_ns:
                break
            reduce(state, entry.header, entry.seq, entry.time_ns, entry.event)
        self.state = state
        self.findings = None
        self._changed = True


class EmbeddedRun(RunSource):
    """An observer inside the viewer, for a run that has none."""

    def __init__(
        self,
        folder: RunFolder,
        note: str,
        sighted: list[ProcessSighted] | None = None,
        ray_job: RayJob | None = None,
    ) -> None:
        super().__init__(folder, note)
        self.injects: Literal["", "for good", "dump only"] = ""
        """Whether the agent is brought into its ranks, because a person asked for it."""
        self.not_injected: list[str] = []
        self._sighted = sighted or []
        self._ray_job = ray_job
        self._observer: Observer | None = None
        self._task: asyncio.Task[str] | None = None
        self._lock: int | None = None
        self._changed = False

    async def open(self) -> None:
        """Starts observing; does not write where the folder cannot be written.

        Raises:
            AttachDenied: the folder cannot be read either.
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
            self.note += "; nothing is recorded: its folder cannot be written"
        self._observer = Observer(self.folder, embedded=True, writable=self._lock is not None)
        self._observer.viewers = 1
        if self._sighted and self._lock is not None:
            write_attached(self.folder, [sighted.process for sighted in self._sighted])
        for sighted in self._sighted:
            self._observer.tracking.add_sighting(sighted)
        if self._ray_job is not None:
            self._observer.cluster.know(self._ray_job.raylets, [self._ray_job.job_id])
        self.state = self._observer.state
        self._observer.sinks.append(self._note_change)
        self._task = asyncio.create_task(self._observer.run())
        await self._observer.inspection.begin("attached", {})
        if self.injects:
            from distwatch.observer.targets.injecting import inject

            for_good = self.injects == "for good"
            self.not_injected = await inject(self._observer, for_good=for_good)

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
        return dump_text(await self._observer.dump("a person asked"))

    async def close(self) -> None:
        if self._observer is not None and self._task is not None:
            if self.injects == "dump only":
                from distwatch.observer.targets.injecting import take_out

                await take_out(self._observer.agent_sockets().values())
            self._observer.stop()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lock is not None:
            free_lock(self._lock)
            self._lock = None
            if self.injects == "for good" and any(
                p.instrumented for p in self.state.processes.values()
            ):
                # Who looks at the agents from now on.
                start_observer(self.folder, os.environ)

    def _note_change(self, _: Entry) -> None:
        self._changed = True
