"""What one refresh shows: derived once from the state, then only read."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.loads import loads_of
from distwatch.diagnosis.facts.rank_status import RankStatus, rank_statuses
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.diagnosis.verdict.headline import Headline, headline_of
from distwatch.garbage import without_collections
from distwatch.state.finding import Finding, blamed_ranks
from distwatch.state.host import Stamp
from distwatch.state.model import Process, RunState, TimelineEntry
from distwatch.state.rank_sets import name_ranks
from distwatch.views.layout_grid import LayoutGrid, layout_grids
from distwatch.views.load_groups import LoadGroup, group_loads
from distwatch.views.stack_tree import StackNode, merge_stacks
from distwatch.views.wait_drawing import WaitDrawing, draw_waits

_NAMED = 3


class Picture(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One moment of the run. Drawing it computes no diagnosis."""

    run_id: str
    state: RunState
    """For details on demand; a frozen picture holds its own copy."""
    verdict: Headline
    findings: tuple[Finding, ...] = ()
    rank_statuses: tuple[RankStatus, ...] = ()
    case: Case
    """The largest world, for what is worked out only where it is on screen."""
    world_size: int | None = None
    dropped: int = 0
    """Events that are known to be lost."""
    not_observed: tuple[str, ...] = ()
    hosts: tuple[int, int] = (0, 0)
    """How many hosts are seen now, and how many there are."""
    clock_ns: int | None = None
    """Wall clock of the newest event; None before the first."""

    judged_stamp: Stamp = (0, "", 0)
    """Which verdict of an observer was the newest one."""

    # Not for `attach --once`. The TUI draws a picture at once: the state is that of the picture then.

    @property
    def job(self) -> Job:
        return self.case.job

    @cached_property
    def groups(self) -> tuple[GroupView, ...]:
        return tuple(self.case.groups)

    @cached_property
    def waits(self) -> WaitDrawing:
        return draw_waits(self.job, self.case.graph, self.rank_statuses, self.culprits)

    @cached_property
    def stacks(self) -> tuple[StackNode, ...]:
        return tuple(merge_stacks(self.state, self.job))

    @cached_property
    def loads(self) -> tuple[LoadGroup, ...]:
        return tuple(group_loads(loads_of(self.state, self.job)))

    @cached_property
    def layouts(self) -> tuple[LayoutGrid, ...]:
        return tuple(layout_grids(self.state, self.job))

    @property
    def symptoms(self) -> int:
        return sum(finding.role == "symptom" for finding in self.findings)

    @cached_property
    def culprits(self) -> frozenset[int]:
        """Ranks that a root finding or the suspicion blames."""
        return blamed_ranks(self.shown_findings)

    @property
    def shown_findings(self) -> tuple[Finding, ...]:
        """What was found; before that, what will be if nothing moves."""
        suspicion = self.verdict.suspicion
        return self.findings if suspicion is None else (suspicion, *self.findings)

    @property
    def observed(self) -> int:
        """How many of the expected ranks were seen at all."""
        return sum(status.process is not None for status in self.rank_statuses)

    @cached_property
    def launcher(self) -> str:
        """What started the job; '' where no process says."""
        names = [process.identity.launcher for process in self.state.processes.values()]
        return next((name for name in names if name not in ("unknown", "env")), "")

    def status(self, global_rank: int) -> RankStatus | None:
        return self._by_rank.get(global_rank)

    @cached_property
    def _by_rank(self) -> dict[int, RankStatus]:
        return {status.global_rank: status for status in self.rank_statuses}

    def process(self, global_rank: int) -> Process | None:
        """The rank's process, if one was ever seen."""
        status = self.status(global_rank)
        return self.state.processes.get(status.process or "") if status else None

    def ranks_by_process(self) -> dict[str, int]:
        """Process key → global rank."""
        return {s.process: s.global_rank for s in self.rank_statuses if s.process is not None}

    def wall_ns(self, entry: TimelineEntry) -> int:
        """Its time on its host's wall clock."""
        return self.state.wall_ns(entry.host, entry.time_ns)


def take_picture(state: RunState, run_id: str, findings: list[Finding] | None = None) -> Picture:
    """Derives everything that the views show.

    Args:
        findings: the verdict on that state, where the caller has it.
    """
    with without_collections():
        return _take(state, run_id, findings)


def _take(state: RunState, run_id: str, findings: list[Finding] | None) -> Picture:
    # The job of ten thousand ranks takes a third of a second to derive: once for everything shown.
    cases = cases_of(state)
    job = cases[0].job
    if findings is None:
        findings = diagnose(cases)
    ranks = rank_statuses(state, job)
    verdict = headline_of(cases, findings, ranks)
    return Picture(
        run_id=run_id,
        state=state,
        case=cases[0],
        findings=tuple(findings),
        verdict=verdict,
        rank_statuses=tuple(ranks),
        world_size=job.world,
        dropped=state.dropped_events,
        judged_stamp=state.judged_stamp,
        not_observed=tuple(_not_observed(state, job)),
        hosts=host_count(state, job),
        clock_ns=max((h.now_ns + h.wall_offset_ns for h in state.hosts.values()), default=None),
    )


def freeze(picture: Picture) -> Picture:
    """The same picture on a state that later events do not change."""
    state = _copied(picture.state)
    frozen = msgspec.structs.replace(picture, state=state, case=cases_of(state)[0])
    # What was worked out is of the picture's own moment.
    vars(frozen).update(vars(picture))
    return frozen


def _copied(value: Any) -> Any:
    """A copy as deep as events may change it; frozen structs are shared."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    if isinstance(value, msgspec.Struct) and not value.__struct_config__.frozen:
        fields = {name: _copied(getattr(value, name)) for name in value.__struct_fields__}
        return type(value)(**fields)
    return value


def _not_observed(state: RunState, job: Job) -> list[str]:
    """`stack of ranks 0-3: no permission to ptrace`, one line for each reason."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for process in job.ranks.values():
        if process.global_rank is not None:
            for what, why in process.outside.not_observed.items():
                reasons.setdefault((what, why), []).append(process.global_rank)
    lines = [f"{what} of {name_ranks(ranks)}: {why}" for (what, why), ranks in reasons.items()]
    lines += [f"host {name}: {lost.text}" for name, lost in sorted(unseen_hosts(state).items())]
    alike: dict[tuple[str, str], list[str]] = {}
    for name, host in sorted(state.hosts.items()):
        seen = dict(host.not_observed)
        if host.devices is not None and host.devices.not_observed:
            seen.setdefault("devices", host.devices.not_observed)
        for reason in seen.items():
            alike.setdefault(reason, []).append(name)
    return [
        *lines,
        *(f"{what}{_on(names, state)}: {why}" for (what, why), names in alike.items()),
    ]


def _on(names: list[str], state: RunState) -> str:
    if len(state.hosts) == 1:
        return ""
    if len(names) == len(state.hosts):
        return " on every host"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" on {', '.join(names[:_NAMED])}{more}"
