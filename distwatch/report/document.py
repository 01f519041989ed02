"""report.json, to the public contract (`distwatch.report/1`)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import asdict

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView, groups_of
from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import RankStatus, rank_statuses
from distwatch.diagnosis.facts.worlds import is_lone_program
from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.diagnosis.verdict.headline import Headline, headline_of
from distwatch.redaction import redact_text
from distwatch.report.incidents import Incident, incidents_of
from distwatch.report.models import Model, build_models, redacted
from distwatch.report.pictures import Pictures, draw_pictures
from distwatch.report.timeline import Happening, happenings_of, wall_text
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.events import Device
from distwatch.state.finding import Finding, blamed_ranks
from distwatch.state.model import Process, RunState
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.views.layout_grid import LayoutGrid, layout_grids
from distwatch.views.process_rows import ProcessRow, process_rows
from distwatch.views.ray_rows import RayRow, ray_rows
from distwatch.views.stack_tree import StackNode, merge_stacks

SCHEMA = "distwatch.report/1"
_VERSIONED = ("python", "torch", "distwatch", "transformers", "accelerate", "peft", "ray")
SIZES_TOLD = 8
HOSTS_TOLD = 6


class Run(msgspec.Struct, kw_only=True):
    id: str
    started: str | None
    ended: str | None
    """When the last of its processes ended, once all that were seen have."""
    launcher: str
    world_size: int | None
    hosts: list[str]
    versions: dict[str, str] = {}
    """Of Python, distwatch, torch and the libraries that it hooks; where ranks differ, all of them."""


class Coverage(msgspec.Struct, kw_only=True):
    expected_ranks: int | None
    observed_ranks: int
    unobserved: dict[str, str]
    """Rank → why nothing, or not everything, is known about it."""
    dropped_events: int
    not_observed: dict[str, str] = {}
    """What else could not be seen, and why."""
    expected_hosts: int = 0
    observed_hosts: int = 0


class Rank(msgspec.Struct, kw_only=True):
    global_rank: int
    host: str
    pid: int | None
    state: str
    doing: str
    where: str
    since_s: float | None
    """Seconds since it last moved; None once it has ended."""
    heartbeat_s: float | None
    instrumented: bool
    ended: str | None = None
    actor: str = ""
    """Class, name and current method, where the rank is an actor of a cluster."""
    cluster: dict[str, str] = {}
    """The cluster's own ids: job_id, node_id, worker_id, actor_id, …"""
    exception: list[str] = []
    integrations: dict[str, str] = {}
    step: int | None = None
    """The training step that it is at; None where it has told none."""
    phase: str = ""
    """forward, backward, optimizer, evaluation, save; '' where its stack shows none of them."""


class Group(msgspec.Struct, kw_only=True):
    pg_name: str
    pg_desc: str
    backend: str
    members: list[int]
    axis: str
    """The axis of the mesh that the group runs along; empty where none is known."""
    world: str = ""
    """The store of a separate world beside the job's; empty for any other group."""
    in_flight: bool
    collective_seq: int
    op: str
    entered: list[int]
    missing: list[int]
    waited_s: float
    progress: dict[str, list[int]]
    """Rank → [last entered, last completed] sequence number."""


class HostDevices(msgspec.Struct, kw_only=True):
    host: str
    memory_total: int | None
    memory_available: int | None
    cgroup_limit: int | None
    cgroup_used: int | None
    devices: list[dict[str, Any]]
    not_observed: str | None


class Report(msgspec.Struct, kw_only=True):
    """The whole report; its fields are the contract."""

    schema: str = SCHEMA
    run: Run
    coverage: Coverage
    verdict: Headline
    findings: list[Finding]
    ranks: list[Rank]
    groups: list[Group]
    layouts: list[LayoutGrid]
    """Parallel layouts of frameworks and meshes, with each rank in its place."""
    stacks: list[StackNode]
    models: list[Model]
    devices: list[HostDevices]
    ray: list[RayRow]
    """The Ray cluster of a Ray job: what waits, was restarted, failed or died."""
    incidents: list[Incident]
    """What the run has suffered from, also in attempts before this one."""
    processes: list[ProcessRow]
    """Those that are no ranks: launchers, drivers, pool workers, converters, …"""
    timeline: list[Happening]
    pictures: Pictures | msgspec.UnsetType = msgspec.UNSET
    """What a page draws; not a part of report.json."""


def build_report(
    state: RunState, findings: list[Finding], run_id: str, cases: list[Case] | None = None
) -> Report:
    """Collects the report; all free text is redacted here, once for every format.

    Args:
        cases: the run's worlds, where the caller has them.
    """
    cases = cases or cases_of(state)
    job = cases[0].job
    # A lone program is judged as a job of one, and is none of its ranks.
    ranks = [one for one in rank_statuses(state, job) if not _is_lone(job, one)]
    verdict = headline_of(cases, findings, ranks)
    suspected = (verdict.suspicion,) if verdict.suspicion is not None else ()
    culprits = blamed_ranks((*suspected, *findings))
    return Report(
        run=_run(job, run_id),
        coverage=_coverage(job, ranks),
        verdict=redacted_headline(verdict),
        findings=[_redacted(finding) for finding in findings],
        ranks=[_rank(state, status) for status in ranks],
        groups=[_group(view) for view in groups_of(job)],
        layouts=layout_grids(state, job),
        stacks=merge_stacks(state, job),
        models=build_models(state, job),
        devices=_devices(state),
        ray=[redacted(row, "name", "text") for row in ray_rows(state)],
        incidents=incidents_of(state),
        processes=[redacted(row, "exception", "command") for row in process_rows(state)],
        timeline=happenings_of(state),
        pictures=draw_pictures(job, cases[0].graph, ranks, culprits),
    )


def _is_lone(job: Job, status: RankStatus) -> bool:
    process = job.ranks.get(status.global_rank)
    return process is not None and is_lone_program(process)


def to_json(report: Report) -> bytes:
    """The report as JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(of_contract(report)), indent=2) + b"\n"


def of_contract(report: Report) -> Report:
    """The same report with only what programs are promised."""
    return msgspec.structs.replace(report, pictures=msgspec.UNSET)


def _run(job: Job, run_id: str) -> Run:
    state, processes = job.state, list(job.ranks.values())
    starts = [
        process.started_ns + state.hosts[process.host].wall_offset_ns
        for process in processes
        if process.started_ns is not None and process.host in state.hosts
    ]
    return Run(
        id=run_id,
        started=wall_text(min(starts)) if starts else None,
        ended=_end(state),
        launcher=processes[0].identity.launcher if processes else "unknown",
        world_size=job.world,
        hosts=sorted({process.host for process in processes}),
        versions=versions_of(processes),
    )


def versions_of(processes: list[Process]) -> dict[str, str]:
    """By library; where ranks differ, all of its versions."""
    found: dict[str, set[str]] = {}
    for process in processes:
        said = {name: changed.version for name, changed in process.integrations.items()}
        said["torch"] = said.pop("torch_distributed", "")
        if process.started is not None:
            said |= {"python": process.started.python}
            said |= {"distwatch": process.started.distwatch_version}
        if process.planned is not None:
            said |= process.planned.versions
        for name, version in said.items():
            if version and name in _VERSIONED:
                found.setdefault(name, set()).add(version)
    return {name: " or ".join(sorted(found[name])) for name in _VERSIONED if name in found}


def _end(state: RunState) -> str | None:
    ends = [_ended(state, process) for process in state.processes.values()]
    return max(filter(None, ends), default=None) if all(ends) else None


def _ended(state: RunState, process: Process) -> str | None:
    """When it ended, by the wall clock."""
    ended_ns = process.ended_ns
    return wall_text(state.wall_ns(process.host, ended_ns)) if ended_ns is not None else None


def _coverage(job: Job, ranks: list[RankStatus]) -> Coverage:
    state = job.state
    unobserved: dict[str, str] = {}
    for status in ranks:
        if status.process is None:
            unobserved[str(status.global_rank)] = job.why_unseen(status.global_rank)
        elif status.global_rank in job.unwatched:
            unobserved[str(status.global_rank)] = "no process seen: only NCCL's RAS tells of it"
        elif not status.instrumented:
            unobserved[str(status.global_rank)] = "runs without distwatch: seen only from outside"
        else:
            said = state.processes[status.process].outside.not_observed
            if said:
                why = "; ".join(f"{what}: {reason}" for what, reason in said.items())
                unobserved[str(status.global_rank)] = why
    elsewhere: dict[str, str] = {}
    for host in state.hosts.values():
        elsewhere |= {
            f"{what} on {host.host}": why
            for what, why in host.not_observed.items()
            if what.removeprefix("rank ") not in unobserved
        }
        unseen = host.devices.not_observed if host.devices else "no observer looked"
        if unseen:
            elsewhere[f"GPUs on {host.host}"] = unseen
    if beyond := _beyond(job):
        elsewhere["sizes out of bound"] = beyond
    if (more := (job.world or 0) - len(ranks)) > 0:
        elsewhere[f"{more} more ranks"] = "no process seen"
    elsewhere |= {f"host {name}": lost.text for name, lost in unseen_hosts(state).items()}
    observed_hosts, expected_hosts = host_count(state, job)
    return Coverage(
        expected_ranks=job.world,
        observed_ranks=sum(s.process is not None and s.instrumented for s in ranks),
        unobserved=unobserved,
        dropped_events=state.dropped_events,
        not_observed=elsewhere,
        expected_hosts=expected_hosts,
        observed_hosts=observed_hosts,
    )


def _beyond(job: Job) -> str:
    """Which sizes were cut, and which ranks named them; '' where none was."""
    said: dict[str, list[int]] = {}
    for process in job.state.processes.values():
        for size in process.beyond:
            said.setdefault(size, []).append(process.global_rank or 0)
    told = [f"{size} of {name_ranks(ranks)}" for size, ranks in said.items()]
    more = f" and {len(told) - SIZES_TOLD} more" if len(told) > SIZES_TOLD else ""
    return f"cut to {MOST_RANKS}: {', '.join(told[:SIZES_TOLD])}{more}" if told else ""


def hosts_text(run: Run) -> str:
    """`node01, node02`; of many hosts the number and the first ones."""
    if len(run.hosts) <= HOSTS_TOLD:
        return ", ".join(run.hosts) or "no host"
    return f"{len(run.hosts)} hosts: {', '.join(run.hosts[: HOSTS_TOLD // 2])}, …"


def since_text(rank: Rank) -> str:
    """How long a rank has not moved, or when it ended: a report is read at any later time."""
    if rank.ended is not None:
        return f"ended {rank.ended[11:19]}Z"
    return "" if rank.since_s is None else seconds(rank.since_s)


def reasons_unobserved(coverage: Coverage) -> dict[str, str]:
    """The same by reason, for people: `ranks 2-7` → `no process seen`."""
    ranks: dict[str, list[int]] = {}
    for rank, why in coverage.unobserved.items():
        ranks.setdefault(why, []).append(int(rank))
    return {name_ranks(of_reason): why for why, of_reason in ranks.items()}


def _redacted(finding: Finding) -> Finding:
    evidence = tuple(redacted(one, "text") for one in finding.evidence)
    # The lines of source were redacted when they were read.
    return msgspec.structs.replace(redacted(finding, "summary", "advice"), evidence=evidence)


def redacted_headline(verdict: Headline) -> Headline:
    """The verdict with its free text redacted."""
    return msgspec.structs.replace(
        verdict,
        summary=redact_text(verdict.summary),
        advice=redact_text(verdict.advice),
        suspicion=_redacted(verdict.suspicion) if verdict.suspicion else None,
    )


def _rank(state: RunState, status: RankStatus) -> Rank:
    process = state.processes.get(status.process) if status.process else None
    error = process.exception if process else None
    return Rank(
        global_rank=status.global_rank,
        host=status.host,
        pid=status.pid,
        state=status.word,
        doing=redact_text(status.doing),
        where=status.where,
        since_s=None if process and process.ended_ns else _rounded(status.since_s),
        ended=_ended(state, process) if process else None,
        heartbeat_s=_rounded(status.heartbeat_s),
        instrumented=status.instrumented,
        step=status.step,
        phase=status.phase,
        actor=process.actor if process else "",
        cluster=asdict(process.worker) if process and process.worker else {},
        exception=[redact_text(line) for line in error.traceback] if error else [],
        integrations={
            name: f"{changed.status}{': ' + changed.reason if changed.reason else ''}"
            for name, changed in (process.integrations if process else {}).items()
        },
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _group(view: GroupView) -> Group:
    progress = {str(rank): [p.enqueued, p.completed] for rank, p in view.progress.items()}
    told = {**asdict(view), "collective_seq": view.seq, "waited_s": round(view.waited_s, 2)}
    return msgspec.convert({**told, "progress": progress}, Group)


def _devices(state: RunState) -> list[HostDevices]:
    memory = ("memory_total", "memory_available", "cgroup_limit", "cgroup_used")
    return [
        HostDevices(
            host=host.host,
            **{name: getattr(host.sample, name, None) for name in memory},
            devices=[_device(d) for d in host.devices.devices] if host.devices else [],
            not_observed=host.devices.not_observed if host.devices else "no observer looked",
        )
        for host in sorted(state.hosts.values(), key=lambda host: host.host)
    ]


def _device(device: Device) -> dict[str, Any]:
    """All fields, including empty ones: viewers expect each of them."""
    used = [msgspec.structs.asdict(use) for use in device.processes]
    return {**msgspec.structs.asdict(device), "processes": used}
