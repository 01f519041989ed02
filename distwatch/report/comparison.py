"""What one run did otherwise than another one: versions, environment, layout, calls, length of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.facts.training import training_of
from distwatch.redaction import redact_text
from distwatch.report.document import versions_of
from distwatch.state.events import CollectivesDumped, Event, PulseRead
from distwatch.state.model import Process, RunState
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_by

SCHEMA = "distwatch.diff/1"
_CALLS_KEPT = 1 << 16
_STEP_SHARE = 1.5
"""A step that is shorter or longer by less than this is no difference."""
Calls = dict[tuple[int, str], dict[int, str]]
"""By rank and group: the operation under each number, as far as it was journaled."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs. `here`: in the run in question; `healthy`: in the other one."""

    kind: str
    """version, environment, layout, calls or step."""
    what: str
    here: str
    healthy: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs side by side."""

    schema: str = SCHEMA
    run: str
    healthy: str
    differences: tuple[Difference, ...] = ()
    not_compared: tuple[str, ...] = ()
    """What one of the two runs does not have, so that nothing is said of it."""


def calls_of(events: Iterable[tuple[str, Event]], state: RunState) -> Calls:
    """Every call whose record is on disk. `events`: each with the key of its process."""
    found: Calls = {}
    kept = 0
    for key, event in events:
        process = state.processes.get(key)
        rank = process.global_rank if process is not None else None
        if process is None or rank is None or kept >= _CALLS_KEPT:
            continue
        for pg_name, seq, op in _numbered(event):
            calls = found.setdefault((rank, _title(process, pg_name)), {})
            kept += seq not in calls
            calls[seq] = operation_name(op)
    return found


def _numbered(event: Event) -> Iterator[tuple[str, int, str]]:
    if isinstance(event, PulseRead):
        yield from ((o.pg_name, o.seq, o.op) for o in event.operations if o.seq >= 0)
    elif isinstance(event, CollectivesDumped):
        yield from ((e.pg_name, e.seq, e.op) for e in event.entries if not e.is_p2p)


def _title(process: Process, pg_name: str) -> str:
    group = process.groups.get(pg_name)
    desc = group.pg_desc if group is not None else ""
    return desc if desc not in ("", "undefined") else f"group {pg_name}"


def compare(run: RunState, healthy: RunState, calls: tuple[Calls, Calls]) -> Comparison:
    """The differences of two runs, the most likely cause first: what each rank called comes last.

    Args:
        calls: of both runs, from `calls_of`.
    """
    jobs = (largest_job(run), largest_job(healthy))
    versions = tuple(versions_of(list(job.ranks.values())) for job in jobs)
    groups = tuple(_groups(job) for job in jobs)
    differences = [
        *(_of_tables("version", *versions) if all(versions) else ()),
        *_of_tables("environment", *(_environment(job) for job in jobs)),
        *_of_tables("layout", *(_extent(job) for job in jobs)),
        *(_of_tables("layout", *groups) if all(groups) else ()),
        *_of_steps(*jobs),
        *_of_calls(*calls),
    ]
    tables = (("versions", versions), ("groups", groups), ("calls", calls))
    absent = [
        f"{state.run_id}: no {what} are on disk"
        for what, known in tables
        for state, table in zip((run, healthy), known, strict=True)
        if not table
    ]
    return Comparison(
        run=run.run_id,
        healthy=healthy.run_id,
        differences=tuple(differences),
        not_compared=tuple(absent),
    )


def _of_tables(
    kind: str, here: Mapping[str, str], healthy: Mapping[str, str]
) -> Iterator[Difference]:
    for name in sorted({*here, *healthy}):
        mine, yours = here.get(name, "not set"), healthy.get(name, "not set")
        if mine != yours:
            yield Difference(kind=kind, what=name, here=mine, healthy=yours)


def _environment(job: Job) -> dict[str, str]:
    """Each variable with its values by rank; what names a rank or an address differs in every launch."""
    values: dict[str, dict[int, str]] = {}
    for rank, process in job.ranks.items():
        planned = process.planned.variables if process.planned is not None else {}
        for name, value in planned.items():
            if name not in _OF_A_LAUNCH:
                values.setdefault(name, {})[rank] = redact_text(value)
        if process.command:
            values.setdefault("command", {})[rank] = " ".join(process.command[1:])
    return {name: _said(by_rank) for name, by_rank in values.items()}


_OF_A_LAUNCH = frozenset(
    ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
)


def _extent(job: Job) -> dict[str, str]:
    hosts = {process.host for process in job.ranks.values()}
    return {"world size": str(job.world or "unknown"), "hosts": str(len(hosts))}


def _groups(job: Job) -> dict[str, str]:
    groups: dict[str, dict[int, str]] = {}
    for rank, process in job.ranks.items():
        for group in process.groups.values():
            said = f"{group.backend}, {len(group.members)} ranks"
            groups.setdefault(_title(process, group.pg_name), {})[rank] = said
        for held in process.layouts.values():
            sizes = ", ".join(f"{axis} {size}" for axis, size in sorted(held.sizes.items()))
            groups.setdefault(f"layout of {held.framework}", {})[rank] = sizes
    return {name: _said(by_rank) for name, by_rank in groups.items()}


def _of_steps(here: Job, healthy: Job) -> Iterator[Difference]:
    for rank in sorted(here.ranks.keys() & healthy.ranks.keys()):
        mine, yours = (training_of(job.ranks[rank]) for job in (here, healthy))
        if mine is None or yours is None:
            continue
        if mine.step != yours.step:
            yield Difference(
                kind="step",
                what=f"rank {rank}: last step",
                here=str(mine.step),
                healthy=str(yours.step),
            )
        if mine.usual_s and yours.usual_s:
            share = mine.usual_s / yours.usual_s
            if not 1 / _STEP_SHARE < share < _STEP_SHARE:
                yield Difference(
                    kind="step", what=f"rank {rank}: usual length", here=seconds(mine.usual_s),
                    healthy=seconds(yours.usual_s),
                )  # fmt: skip


def _of_calls(here: Calls, healthy: Calls) -> Iterator[Difference]:
    """The first number at which a rank leaves the healthy order, of those that both runs have on disk."""
    for rank, group in sorted(here.keys() & healthy.keys()):
        mine, yours = here[rank, group], healthy[rank, group]
        common = sorted(mine.keys() & yours.keys())
        first = next((seq for seq in common if mine[seq] != yours[seq]), None)
        if first is not None:
            yield Difference(
                kind="calls", what=f"rank {rank}, {group}: first other call is #{first}",
                here=mine[first], healthy=yours[first],
            )  # fmt: skip
        elif max(mine) != max(yours):
            yield Difference(
                kind="calls", what=f"rank {rank}, {group}: last call",
                here=f"#{max(mine)} {mine[max(mine)]}", healthy=f"#{max(yours)} {yours[max(yours)]}",
            )  # fmt: skip


def _said(by_rank: Mapping[int, str]) -> str:
    """One value for all ranks, or each with its ranks."""
    values = set(by_rank.values())
    return values.pop() if len(values) == 1 else "; ".join(name_by(by_rank))
