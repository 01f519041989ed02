"""Adds to findings why their ranks part: the ways, a clause of the summary, and advice that fits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.training import place_in_training, training_of
from distwatch.diagnosis.facts.weight_sync import weight_sync_of
from distwatch.diagnosis.facts.world_names import named
from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.parting import Parting, dispatching, level_of, part
from distwatch.diagnosis.why.same_line import told_by_line
from distwatch.diagnosis.why.sides import Side, is_on_values, sides_of
from distwatch.diagnosis.why.source import Source, excerpt, read_source
from distwatch.diagnosis.why.trails import Step, Trail
from distwatch.diagnosis.why.unmatched import Kept, keeping_from, missing_calls
from distwatch.diagnosis.why.words import advice_of, advice_on_missing, clause_of, kept_clause
from distwatch.state.codes import code_of
from distwatch.state.finding import Evidence, Finding, Way
from distwatch.state.model import Process

_FINDINGS = 4
_RANKS = 8
_FAMILIES = ("collective", "p2p", "load", "process", "checkpoint")
_GROUPS = frozenset(
    f"group.{name}" for name in ("call_missing", "members_disagree", "counter_skew", "destroyed")
)
_FROM_OUTSIDE = frozenset(
    f"process.{name}" for name in ("killed", "oom_killed", "stopped", "debugger")
)
"""What came upon a rank, wherever it was in its code."""
_OF_CODE = ("collective.", "p2p.", "group.")
"""Of these the code itself is the cause; of others it only shows who is concerned."""
_COLLECTIVE = (
    "all_reduce all_gather gather broadcast reduce scatter barrier all_to_all send recv backward wait "
    "new_group synchronize"
).split()  # fmt: skip


def with_place_in_training(case: Case, found: list[Finding]) -> list[Finding]:
    """The same findings; the first one that stops ranks also says at which step, or where in a weight sync."""
    if not found or not found[0].blocks:
        return found
    first = found[0]
    ranks = (*first.culprit_ranks[:_RANKS], *first.waiting_ranks[:_RANKS])
    processes = [case.job.ranks[rank] for rank in ranks if rank in case.job.ranks]
    told = _parts_of_weight_sync(case, first, processes)
    if not told:
        places = ((process.global_rank, place_in_training(process)) for process in processes)
        told = next((f"rank {rank} at {place}" for rank, place in places if place), "")
    if not told:
        return found
    return [first.with_remark(told), *found[1:]]


def _parts_of_weight_sync(case: Case, finding: Finding, processes: list[Process]) -> str:
    """`weight sync: rank 2 in load (engine), rank 0 of another world (pid 7) in broadcast (training)`."""
    behind = case.waiting_for(finding.culprit_ranks)[:_RANKS]
    here = [*processes, *(case.job.ranks[rank] for rank in behind)]
    known = {process.key for process in here}
    elsewhere = [
        process
        for joint in case.joint
        if any(view.pg_name == finding.pg_name for view in joint.groups)
        for process in joint.job.ranks.values()
        if process.key not in known
    ]
    parts: dict[str, list[Process]] = {}
    for key, process in {process.key: process for process in (*here, *elsewhere)}.items():
        if sync := weight_sync_of(process):
            parts.setdefault(str(sync), []).append(case.state.processes[key])
    told = ", ".join(f"{named(case, those)} in {part}" for part, those in parts.items())
    return f"weight sync: {told}" if told else ""


def with_why(case: Case, found: list[Finding]) -> list[Finding]:
    """The same findings; the first ones that stop ranks also say where the ranks part."""
    explained = {id(f) for f in [f for f in found if _may_part(f)][:_FINDINGS]}
    return [_explained(case, f) if id(f) in explained else f for f in found]


def _may_part(finding: Finding) -> bool:
    if not finding.culprit_ranks or finding.why or finding.code in _FROM_OUTSIDE:
        return False
    return finding.code.partition(".")[0] in _FAMILIES or finding.code in _GROUPS


def _explained(case: Case, finding: Finding) -> Finding:
    if finding.code == "p2p.unmatched" and (told := _by_missing_call(case, finding)):
        return told
    for sides in sides_of(case, finding):
        if sides[0].trail.steps == sides[1].trail.steps or _share_code(sides):
            return _by_sides(case, finding, sides)
    return finding


def _share_code(sides: tuple[Side, Side]) -> bool:
    """Whether one function of the person's code is in both trails: two threads' calls have none."""
    return level_of(sides[0].trail, sides[1].trail) is not None


def _by_sides(case: Case, finding: Finding, sides: tuple[Side, Side]) -> Finding:
    trails = (sides[0].trail, sides[1].trail)
    if trails[0].steps == trails[1].steps:
        other_calls = finding.code == "collective.op_mismatch"
        if not trails[0].steps or not (is_on_values(finding) or other_calls):
            return finding
        called = () if other_calls else trails[0].called
        return _on_one_line(case, finding, sides, trails[0].steps[-1], called)
    counts = (sides[0].times, sides[1].times) if min(s.times for s in sides) >= 0 else None
    alone = (sides[0].is_alone, sides[1].is_alone)
    common = (sides[0].is_common, sides[1].is_common)
    alike = _are_at_one_step(case, sides)
    ranks = (sides[0].ranks, sides[1].ranks)
    parting = _part(trails, counts, alone, common, alike, ranks, tuple(_texts(case, trails)))
    if parting is None:
        step = dispatching(*trails)
        found = _on_one_line(case, finding, sides, step, ()) if step else finding
        return found if found.why else _with_unread(case, finding, trails)
    finding = _blaming_who_left(finding, parting, ranks)
    clause = clause_of(parting, ranks, counts)
    advice = finding.advice
    of_code = finding.code.startswith(_OF_CODE) and not parting.is_of_a_pair
    if of_code and not finding.has_own_advice:
        advice = advice_of(parting, _is_collective(parting)) or advice
    order = (parting.taker, 1 - parting.taker)
    return msgspec.structs.replace(
        finding,
        summary=f"{finding.summary}; {clause}",
        advice=advice,
        why=tuple(w for side in order if (w := _way(case, parting, sides, side))),
    )


def _are_at_one_step(case: Case, sides: tuple[Side, Side]) -> bool:
    """Whether all of them say that they are at the same step of their training."""
    told = [training_of(case.job.ranks[rank]) for side in sides for rank in side.ranks]
    steps = {at.step if at is not None else None for at in told}
    return len(steps) == 1 and None not in steps


def _on_one_line(
    case: Case, finding: Finding, sides: tuple[Side, Side], step: Step, called: tuple[str, ...]
) -> Finding:
    return told_by_line(finding, sides, step, called, lambda file: _source(case, file))


def _by_missing_call(case: Case, finding: Finding) -> Finding | None:
    """What keeps a rank from the send or recv that another waits for; None where nothing shows it."""
    try:
        missing, kept = next(
            (one, kept)
            for one in missing_calls(case, finding, lambda file: _source(case, file))
            if (kept := keeping_from(one, lambda file: _source(case, file)))
        )
    except (StopIteration, RecursionError):
        return None
    here = missing.now.steps[-1] if missing.now.steps else kept.step
    waits = missing.peers.steps[-1]
    guard = kept.guard
    words = {"loop": "end of ", "branch": "else of ", "conditional": "else of ", "match": "not "}
    before = "" if guard.is_exit or guard.arm == "else" else words.get(guard.kind, "")
    condition = f"{before}`{guard.text}`" if before else guard.text
    ways = (
        _plain_way(case, (missing.rank,), here, condition, kept),
        _plain_way(case, (missing.peer,), waits, "", kept),
    )
    advice = finding.advice if finding.has_own_advice else advice_on_missing(kept) or finding.advice
    return msgspec.structs.replace(
        finding, summary=f"{finding.summary}; {kept_clause(kept, missing)}", advice=advice, why=ways
    )


def _plain_way(case: Case, ranks: tuple[int, ...], step: Step, condition: str, kept: Kept) -> Way:
    source = _source(case, step.file)
    line = kept.guard.line if condition else 0
    return Way(
        global_ranks=ranks, file=step.file, line=step.line, function=step.function,
        source=source.line(step.line) if source else "", condition=condition, condition_line=line,
        kind=kept.guard.kind, about=kept.about,
        lines=excerpt(source, line, step.line) if source else (),
    )  # fmt: skip


def _blaming_who_left(
    finding: Finding, parting: Parting, ranks: tuple[tuple[int, ...], tuple[int, ...]]
) -> Finding:
    """Of a mismatch that blames both sides: the side that left a `try` in which the other one still is."""
    left, stayed = ranks[parting.taker], ranks[1 - parting.taker]
    alike = {*left, *stayed} == set(finding.culprit_ranks)
    if not (parting.has_left and alike and code_of(finding.code).mismatch):
        return finding
    waiting = tuple(sorted({*finding.waiting_ranks, *stayed}))
    return msgspec.structs.replace(finding, culprit_ranks=left, waiting_ranks=waiting)


@lru_cache(maxsize=256)
def _part(
    trails: tuple[Trail, Trail],
    counts: tuple[int, int] | None,
    alone: tuple[bool, bool],
    common: tuple[bool, bool],
    alike: bool,
    ranks: tuple[tuple[int, ...], tuple[int, ...]],
    texts: tuple[tuple[str, str], ...],
) -> Parting | None:
    """Verdicts are derived again and again from the same stacks, and from the same sources."""
    by_file = dict(texts)
    try:
        return part(
            trails, lambda f: read_source(by_file[f]) if f in by_file else None, counts, alone,
            common=common, alike_rounds=alike, ranks=ranks,
        )  # fmt: skip
    except RecursionError:
        return None  # a source of hundreds of nested branches must not cost the verdict itself


def _texts(case: Case, trails: tuple[Trail, Trail]) -> Iterator[tuple[str, str]]:
    for file in dict.fromkeys(step.file for trail in trails for step in trail.steps):
        read = case.state.source_files.get(file)
        if read is not None and read.text:
            yield file, read.text


def _with_unread(case: Case, finding: Finding, trails: tuple[Trail, Trail]) -> Finding:
    """The same finding, with the files that could have shown more and were not read."""
    files = dict.fromkeys(step.file for trail in trails for step in trail.steps)
    unread = [one for file in files if (one := case.state.source_files.get(file)) and one.not_read]
    more = (Evidence("stack", f"{one.file} was not read: {one.not_read}") for one in unread[:4])
    return msgspec.structs.replace(finding, evidence=(*finding.evidence, *more))


def _way(case: Case, parting: Parting, sides: tuple[Side, Side], side: int) -> Way | None:
    guard = parting.guard
    step = parting.steps[side]
    takes = side == parting.taker
    if takes and guard.is_exit:
        line = getattr(guard.node, "lineno", guard.line)
        step = Step(parting.file, line, parting.function)
    if step is None:
        return None
    source = _source(case, step.file)
    condition, line = _condition(parting, guard, takes)
    return Way(
        global_ranks=sides[side].ranks, file=step.file, line=step.line, function=step.function,
        source=source.line(step.line) if source else "",
        condition=condition, condition_line=line, kind=guard.kind, about=parting.about,
        lines=excerpt(source, line, step.line) if source else (),
    )  # fmt: skip


def _condition(parting: Parting, guard: Guard, takes: bool) -> tuple[str, int]:
    theirs = guard if takes else parting.other
    if theirs is None:
        return "", 0
    if theirs.arm == "else" and theirs.kind != "loop":
        return f"else of `{theirs.text}`", theirs.line
    return theirs.text, theirs.line


def _is_collective(parting: Parting) -> bool:
    return any(word in parting.calls[parting.taker] for word in _COLLECTIVE)


def _source(case: Case, file: str) -> Source | None:
    read = case.state.source_files.get(file)
    return read_source(read.text) if read is not None and read.text else None
