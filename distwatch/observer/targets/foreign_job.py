"""A job that runs without distwatch and belongs to no run: it is watched from outside."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from distwatch.errors import NoSuchTarget
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.ray_jobs import RayJob
from distwatch.observer.targets.target import Target
from distwatch.probes import discovery
from distwatch.runfolder import RunFolder, host_name, next_generation
from distwatch.state.events import ProcessSighted
from distwatch.state.identity import Identity

if TYPE_CHECKING:
    from distwatch.observer.targets.run_source import RunSource


class ForeignJob(Target):
    """The job of a process; the process need not exist.

    Args:
        ray_job: the Ray job of which the process is a worker or the driver.
        recorded: what the last `attach` to this job has written; the next one begins afresh.
    """

    def __init__(
        self, pid: int, root: str, ray_job: RayJob | None, recorded: RunFolder | None = None
    ) -> None:
        self._recorded = recorded
        self.name = f"process {pid}"
        self._pid = pid
        self._root = root
        self._ray_job = ray_job

    def require(self) -> None:
        if self._recorded is None and self._ray_job is None:  # of that one, others may be here
            discovery.require_readable(self._pid)

    def folder(self) -> RunFolder:
        if self._recorded is not None:
            return self._recorded
        raise NoSuchTarget(
            f"{self.name} belongs to no run",
            advice=f"`distwatch attach {self._pid}` watches it from outside.",
        )

    def processes(self) -> list[ProcessSighted]:
        """Its processes on this machine, and the workers of the Ray job's other actors.

        Raises:
            NoSuchTarget: there is no such process.
            AttachDenied: this user may not read it.
        """
        sighted = discovery.job_of(self._pid)
        known = {process.pid for process in sighted}
        others = [pid for pid in (self._ray_job.pids if self._ray_job else ()) if pid not in known]
        return sighted + [seen for pid in others if (seen := discovery.sight(pid)) is not None]

    def rank_pids(self) -> dict[int, int]:
        """Pids by global rank; a job of one is rank 0."""
        pids: dict[int, int] = {}
        for sighted in self.processes():
            if sighted.role == "rank" and sighted.identity.global_rank is not None:
                pids[sighted.identity.global_rank] = sighted.pid
        return pids or {0: self._pid}

    def identity(self) -> Identity:
        """What its ranks on all hosts have in common; raises NoSuchTarget where nothing is known of it."""
        for process in self.processes():
            if process.role == "rank" and (process.identity.endpoint or process.identity.launch_id):
                return process.identity
        raise NoSuchTarget(
            f"{self.name} has no MASTER_ADDR and no launcher's variables: its ranks on other hosts "
            "cannot be told from other processes",
            advice="Attach on each host by itself.",
        )

    def folder_of_hosts(self) -> RunFolder:
        """Its folder on all hosts: the living run of an earlier `up`, else a new one."""
        if self._recorded is not None and lock_holder(self._recorded) is not None:
            return self._recorded
        name = f"attached-{host_name()}-{self._pid}-{time.time_ns() // 10**6}"
        return RunFolder(os.path.join(self._root, name))

    def source(self) -> RunSource:
        if self._recorded is not None and lock_holder(self._recorded) is not None:
            from distwatch.observer.targets.live import LiveRun

            return LiveRun(self._recorded)
        sighted = self.processes()
        in_job = any(process.role in ("rank", "launcher") for process in sighted)
        if not in_job and not any("python" in p.command[0] for p in sighted if p.command):
            command = " ".join(sighted[0].command[:3]) if sighted else "?"
            raise NoSuchTarget(
                f"{self.name} ({command}) is neither Python nor part of a job",
                advice="Give the pid of a rank, its launcher or a dataloader worker; `distwatch ps` lists runs.",
            )
        # This imports the whole daemon, which `distwatch stacks` does not need.
        from distwatch.observer.targets.embedded_run import EmbeddedRun

        # What was found before must not count again: the job may have moved since.
        folder = next_generation(self._root, f"attached-{self._pid}")
        folder.create()
        note = "from outside: this job runs without distwatch"
        return EmbeddedRun(folder, note, sighted, self._ray_job)
