"""A run that the viewer observes itself."""

from __future__ import annotations

import asyncio
import os

from distwatch.errors import AttachDenied
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry, write_attached
from distwatch.observer.lock import free_lock, take_lock
from distwatch.observer.serving import dump_text
from distwatch.observer.targets.ray_jobs import RayJob
from distwatch.observer.targets.run_source import RunSource, SourceLost
from distwatch.observer_process import start_observer
from distwatch.runfolder import RunFolder, make_private
from distwatch.state.events import ProcessSighted


class EmbeddedRun(RunSource):
    """An observer inside the viewer, for a run that has none."""

    can_inject = True

    def __init__(
        self,
        folder: RunFolder,
        note: str,
        sighted: list[ProcessSighted] | None = None,
        ray_job: RayJob | None = None,
    ) -> None:
        super().__init__(folder, note)
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
