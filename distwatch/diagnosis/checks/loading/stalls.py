"""load.stalled, hub_unreachable, lock_stale, generation_config_stalled: a model that stops loading."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.loading.causes import GENERATION_CONFIG, Cause, cause_of
from distwatch.diagnosis.facts.activity import kernel_evidence
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.collective_wait import KILLED_WHILE_WAITING_S
from distwatch.diagnosis.facts.job import was_cut_off
from distwatch.diagnosis.facts.loads import LoadStatus, load_under_way
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import agree, name_ranks
from distwatch.state.steps import COLLECTIVE, INIT, LOAD, kind_of

_WAITS = {
    "request": "the request",
    "download": "the download of",
    "lock": "the wait for the lock",
    "file": "a read of",
}
PATIENCE_S = 10.0
"""A wait for a request or a lock this long is worth a warning, whatever the deadline."""


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """A load of one rank that does not move, and why."""

    rank: int
    load: LoadStatus
    cause: Cause
    overdue: bool


class LoadsStalled:
    """Loads that have not moved within their deadline, or within the deadline of the ranks that wait for them.

    Before that, a long wait that a healthy load never has is a warning.
    """

    def find(self, case: Case) -> Iterable[Finding]:
        stalls = [stall for rank in case.job.ranks if (stall := _stall_of(case, rank))]
        for stalled in _by_cause(stalls):
            yield _finding(case, stalled)


def _stall_of(case: Case, rank: int) -> Stall | None:
    process = case.job.ranks[rank]
    ended = process.ended_ns is not None
    if (ended and not was_cut_off(process)) or case.job.kernel_state(process) == "T":
        return None
    load = load_under_way(case.job, rank)
    if load is None:
        return None
    innermost = process.open_steps()[-1]
    if kind_of(innermost.name) is INIT or case.job.waits_for(rank) or case.graph.is_waiting(rank):
        return None  # it waits for its peers
    if case.job.in_collective_by_stack(process):
        return None  # in a call that left no record
    cause = cause_of(case, rank, process, load)
    overdue = load.still_s > _limit_s(case, rank, process, load)
    if not overdue and not (cause.is_never_healthy and cause.since_s > PATIENCE_S):
        return None
    return Stall(rank=rank, load=load, cause=cause, overdue=overdue)


def _limit_s(case: Case, rank: int, process: Process, load: LoadStatus) -> float:
    own = case.job.limit_s(process, process.steps[load.step], LOAD)
    if case.graph.is_overdue(rank):
        own = min(own, case.job.deadline_s(process, COLLECTIVE))
    return min(own, KILLED_WHILE_WAITING_S) if process.ended_ns is not None else own


def _by_cause(stalls: list[Stall]) -> list[list[Stall]]:
    """Ranks that one thing blocks are one finding."""
    grouped: dict[tuple[str, str, bool], list[Stall]] = {}
    for stall in stalls:
        key = stall.cause.key or f"rank {stall.rank}"
        grouped.setdefault((stall.cause.code, key, stall.overdue), []).append(stall)
    return list(grouped.values())


def _finding(case: Case, stalled: list[Stall]) -> Finding:
    longest = max(stalled, key=lambda stall: stall.load.still_s)
    ranks = tuple(stall.rank for stall in stalled)
    cause, load = longest.cause, longest.load
    culprits = tuple(sorted(cause.culprits or ranks))
    waiting = tuple(sorted({*case.waiting_for(ranks), *ranks} - set(culprits)))
    others = tuple(rank for rank in waiting if rank not in ranks)
    still = f"{name_ranks(ranks, 'has', 'have')} made no progress in "
    if not longest.overdue:
        still = f"{name_ranks(ranks, 'is', 'are')} slow in "
    call = f"{load.call}({load.arguments.checkpoint or 'a model'})"
    lasted = seconds(load.still_s if longest.overdue else cause.since_s)
    return Finding(
        code=cause.code,
        severity="hang" if longest.overdue else "warning",
        culprit_ranks=culprits,
        waiting_ranks=waiting,
        summary=f"{still}{call} for {lasted}: phase {load.text}{_after(load)}{cause.text}"
        + (f"; {name_ranks(others, 'waits', 'wait')} for {agree(ranks, 'it', 'them')}" if others else ""),
        advice=cause.advice,
        evidence=tuple(
            evidence for stall in stalled[:8] for evidence in _evidence(case, stall)
        ),
        confidence=cause.confidence,
    )  # fmt: skip


def _after(load: LoadStatus) -> str:
    """What every phase after the last file says of the files."""
    many = load.after_files
    return (
        f", after {'the only file was' if many == 1 else f'all {many} files were'} read"
        if many
        else ""
    )


def _evidence(case: Case, stall: Stall) -> Iterable[Evidence]:
    process, load = case.job.ranks[stall.rank], stall.load
    yield Evidence(
        "journal",
        f"phase {load.text} last moved {seconds(load.still_s)} ago{_progress_text(load)}",
        stall.rank,
    )
    for outstanding in load.outstanding:
        waited = seconds(case.job.age_s(process, outstanding.since_ns))
        text = f"in {_WAITS[outstanding.waiting]} {outstanding.what} for {waited}"
        if outstanding.waiting != "lock" and outstanding.last_error:
            text += f", attempt {outstanding.attempts}; the last one ended with {outstanding.last_error}"
        yield Evidence("pulse", text, stall.rank)
    yield from stall.cause.evidence
    age = case.job.heartbeat_s(process)
    beat = f"; last heartbeat {seconds(age)} ago" if age is not None else ""
    yield from kernel_evidence(process, stall.rank, beat)
    place = case.where(stall.rank)
    yield Evidence("stack", f"at {place}" if place else "its place was not observed", stall.rank)


def _progress_text(load: LoadStatus) -> str:
    if load.parameters:
        total = f" of {load.parameters_total}" if load.parameters_total else ""
        return f"; {load.parameters}{total} parameters were placed"
    return f"; {load.bytes} bytes were received" if load.bytes else ""


class GenerationConfigLost:
    """load.generation_config_stalled, afterwards: the load continued without the checkpoint's config."""

    def find(self, case: Case) -> Iterable[Finding]:
        for rank, process in case.job.ranks.items():
            for load in process.loads.values():
                if load.placement is None or load.placement.generation != "lost":
                    continue
                steps = process.steps.values()
                tried = [s for s in steps if s.name == GENERATION_CONFIG and s.error]
                step = tried[-1] if tried else None
                took = ((step.ended_ns or 0) - step.started_ns) / 1e9 if step else 0.0
                yield Finding(
                    code="load.generation_config_stalled",
                    severity="warning",
                    culprit_ranks=(rank,),
                    summary=f"rank {rank} loaded {load.arguments.checkpoint} without its generation config, "
                    f"which could not be read{f' (the attempts took {seconds(took)})' if took > 1 else ''}: "
                    "generate() uses defaults",
                    advice="Load it again with GenerationConfig.from_pretrained, or set HF_HUB_OFFLINE=1 with "
                    "a complete cache so that no request goes to the hub.",
                    evidence=(
                        Evidence(
                            "journal",
                            f"{GENERATION_CONFIG}: {step.error if step else 'not read'}",
                            rank,
                        ),
                    ),
                    confidence=0.95,
                )
