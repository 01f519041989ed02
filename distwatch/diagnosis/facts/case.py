"""The case that the checks examine: one world of a run, with what several checks need."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from distwatch.diagnosis.facts.communication import is_init_symptom
from distwatch.diagnosis.facts.deaths import Deaths, deaths_of, ending_signal
from distwatch.diagnosis.facts.failures import Failure, failures_of, is_own_failure
from distwatch.diagnosis.facts.formed_groups import joint_worlds
from distwatch.diagnosis.facts.group_views import GroupView, groups_of
from distwatch.diagnosis.facts.initializations import holds_world, newest_init
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import rank_status, where
from distwatch.diagnosis.facts.ray_view import actor_title
from distwatch.diagnosis.facts.signals import TEARDOWN
from distwatch.diagnosis.facts.stack_calls import StackCall, peer_waits_by_stack
from distwatch.diagnosis.facts.unnumbered_calls import unnumbered_calls, unnumbered_waits
from distwatch.diagnosis.facts.user_frame import user_frame, work_frames
from distwatch.diagnosis.facts.wait_edges import wait_graph
from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.diagnosis.facts.waits import Bundle
from distwatch.diagnosis.facts.worlds import World, worlds_of
from distwatch.state.codes import code_of
from distwatch.state.events import Site
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process, RunState, Step
from distwatch.state.ray_events import RayActorSeen, RayGroupSeen


class Case:
    """One world of a state under diagnosis, with what several checks need; most of it once it is asked for.

    Attributes:
        waiting: ranks whose initialization has begun but not succeeded, with that step: it is open, or
            it failed with an error that blames nobody.
        failures: calls that a process itself made wrongly, or could not make.
        actors, placement_groups: Ray's rows of this world, where the run is a Ray job; the largest
            world gets the rows that no other world can claim.
        rank_of_actor: by actor id, the rank whose process it lives in.
        unnumbered: by global rank, the calls that main threads sleep in and that nothing counts.
        joint: the groups that its ranks share with processes of other worlds, each as a world of its own.
    """

    def __init__(self, state: RunState, world: World | None = None) -> None:
        """The default is the run's largest world."""
        self.state = state
        self.job = Job(state, next(iter(worlds_of(state)), ()) if world is None else world)
        self.job.peer_waits.update(peer_waits_by_stack(self.job))
        self.ray = self.job.ray
        self.actors: tuple[RayActorSeen, ...] = tuple(self.ray.actors.values())
        self.placement_groups: tuple[RayGroupSeen, ...] = tuple(self.ray.groups.values())
        self.rank_of_actor: dict[str, int] = {
            actor.actor_id: rank
            for rank, process in (self.job.ranks.items() if self.actors else ())
            if process.role == "rank" and (actor := self.ray.actor_of(process)) is not None
        }

    @cached_property
    def groups(self) -> list[GroupView]:
        return groups_of(self.job)

    @cached_property
    def deaths(self) -> Deaths:
        return deaths_of(self.job)

    @cached_property
    def failures(self) -> list[Failure]:
        return failures_of(self.job.processes)

    @cached_property
    def waiting(self) -> dict[int, Step]:
        return {rank: step for rank in self.job.ranks if (step := self._wait_in_init(rank))}

    @cached_property
    def joint(self) -> list[Case]:
        worlds = joint_worlds(self.state, self.job.processes)
        return [Case(self.state, members) for members in worlds]

    @cached_property
    def unnumbered(self) -> dict[int, StackCall]:
        return unnumbered_calls(self.job)

    @cached_property
    def graph(self) -> WaitGraph:
        shared, abroad = self._waits_in_joint()
        shared += unnumbered_waits(self.job, self.unnumbered)
        # Whoever is in such a call may wait for a rank that is in one, too.
        abroad |= self.unnumbered.keys()
        return wait_graph(self.job, self.groups, shared, abroad)

    @classmethod
    def of(cls, state: RunState, other: Case) -> Case:
        """The same world as another case's, in another state that has its processes."""
        return cls(state, tuple(state.processes[process.key] for process in other.job.processes))

    def _waits_in_joint(self) -> tuple[list[Bundle], set[int]]:
        """What ranks wait for in joint groups: for ranks of this world, and those that wait for others alone."""
        here = {process.key: rank for rank, process in self.job.ranks.items()}
        shared: list[Bundle] = []
        abroad: set[int] = set()
        for joint in self.joint:
            keys = {member: process.key for member, process in joint.job.ranks.items()}
            for bundle in joint.graph.bundles:
                waiters = {
                    here[keys[member]]: wait
                    for member, wait in bundle.waiters.items()
                    if keys[member] in here
                }
                awaited = tuple(here[keys[m]] for m in bundle.awaited if keys.get(m) in here)
                if awaited:
                    shared.append(
                        msgspec.structs.replace(
                            bundle, waiters=waiters, awaited=awaited, is_joint=True
                        )
                    )
                else:
                    abroad |= waiters.keys()
        return shared, abroad

    @cached_property
    def started_by(self) -> dict[tuple[str, int], list[Process]]:
        """All processes of the run, by the host and pid of their parent."""
        found: dict[tuple[str, int], list[Process]] = {}
        for process in self.state.processes.values():
            found.setdefault((process.host, process.ppid), []).append(process)
        return found

    def _wait_in_init(self, rank: int) -> Step | None:
        process = self.job.ranks[rank]
        step = newest_init(process)
        if step is None or holds_world(process) or is_own_failure(process, step):
            return None
        # A rank that was ended with the whole job had waited until then.
        if rank in self.deaths.own and not self.deaths.stopped_from_outside:
            return None
        if step.ended_ns is None:
            return None if rank in self.deaths.clean else step
        return step if step.error and is_init_symptom(step.error) else None

    def excuses(self, found: Iterable[Finding]) -> dict[int, str]:
        """Ranks whose end is not a second fault, with the code of the finding that explains it."""
        failed = {f.process.key: f.code for f in self.failures if f.uncaught}
        excuses = {r: failed[p.key] for r, p in self.job.ranks.items() if p.key in failed}
        excuses |= {rank: found.code for found in found for rank in _ends_explained(found)}
        fault = next((f.code for f in found if f.blocks and code_of(f.code).persists), None)
        for rank, process in self.deaths.own.items() if fault else ():
            if ending_signal(process) in TEARDOWN and not self._ran_out_of_memory(process):
                excuses.setdefault(rank, fault or "")
        return excuses

    def _ran_out_of_memory(self, process: Process) -> bool:
        """By the kernel's or Ray's word: this is a fault of its own, whatever else is wrong."""
        seen, row = process.outside.exit, self.ray.actor_of(process)
        return bool(seen and seen.oom_killed) or bool(row and row.death == "out_of_memory")

    def waiting_for(self, culprits: Iterable[int]) -> tuple[int, ...]:
        """Ranks in a collective that a culprit has not entered, or in an initialization with a culprit."""
        blamed = set(culprits)
        waiting: set[int] = set()
        for view in self.groups:
            if view.in_flight and blamed & set(view.missing):
                waiting |= set(view.entered)
        waiting |= self.graph.behind(blamed)
        if any(self._is_awaited_in_init(rank) for rank in blamed):
            waiting |= set(self.waiting)
        return tuple(sorted(waiting - blamed))

    def _is_awaited_in_init(self, rank: int) -> bool:
        process = self.job.ranks.get(rank)
        return process is None or not holds_world(process)

    def waiting_s(self, rank: int) -> float:
        """How long a rank has waited, or had waited, in its initialization."""
        step, process = self.waiting[rank], self.job.ranks[rank]
        if step.ended_ns is not None:
            return max(0.0, (step.ended_ns - step.started_ns) / 1e9)
        return self.job.age_s(process, step.started_ns)

    def view(self, pg_name: str, members: tuple[int, ...]) -> GroupView:
        """One of the job's groups as its members see it together."""
        return next(v for v in self.groups if (v.pg_name, v.members) == (pg_name, members))

    def place(self, global_rank: int) -> Evidence:
        """Where a rank is now, from its stack, its journal or the process table."""
        status = rank_status(self.job, global_rank)
        process = self.job.ranks.get(global_rank)
        if process is None:
            return Evidence("proc", self.job.why_unseen(global_rank), global_rank)
        if status.where and process.main_frames:
            doing = f" ({status.doing})" if status.doing else ""
            tense = "is" if process.ended_ns is None else "was"
            line = self._line(process)
            row = self.ray.actor_of(process)
            title = process.actor or (actor_title(row) if row else "")
            actor = f", {title}" if title else ""
            text = (
                f"rank {global_rank} {tense} at {status.where}{line}{doing}; "
                f"{process.address}{actor}"
            )
            return Evidence("stack", text + _wrote(process), global_rank)
        why = process.outside.not_observed.get("stack", "no stack was taken")
        text = f"rank {global_rank}: {status.word}, {status.doing or 'nothing else known'}"
        text = f"{text}; its place was not observed ({why}){_wrote(process)}"
        return Evidence("journal", text, global_rank)

    def _line(self, process: Process) -> str:
        frame = user_frame(work_frames(process))
        text = self.state.sources.get((frame.file, frame.line)) if frame else None
        return f": `{text}`" if text else ""

    def source(self, site: Site) -> str:
        """A call site with the source of its line, where that was read."""
        text = self.state.sources.get((site.file, site.line))
        return f"{site}: `{text}`" if text else str(site)

    def at(self, site: Site | None, words: str = ", at") -> str:
        """`, at train.py:42 in step: `loss.backward()``; '' where the site is not known."""
        return f"{words} {self.source(site)}" if site else ""

    def where(self, global_rank: int) -> str:
        """`train.py:42 in step`, or '' where it was not observed."""
        process = self.job.ranks.get(global_rank)
        return where(process) if process else ""


def _wrote(process: Process) -> str:
    """What it wrote last tells where it was, where nothing else does."""
    last = process.outside.last_output
    return f"; the last line that it wrote: `{last}`" if last else ""


def _ends_explained(finding: Finding) -> tuple[int, ...]:
    """Ranks whose exception this finding explains better."""
    told = code_of(finding.code).tells_exception and finding.severity == "crash"
    return finding.culprit_ranks if told else ()
