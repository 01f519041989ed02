"""Random jobs on NCCL with one fault each, and whether a verdict on their dumps is right."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import dataclass, replace
from typing import Any, Literal

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder import read_recorder_dump
from distwatch.state.finding import Finding
from tests.doubles.async_dumps import Recording, dumps_of
from tests.doubles.async_job import AsyncJob, Fault
from tests.doubles.async_programs import Call, Programs, build, random_layout

MISSING = ("collective.rank_missing", "p2p.unmatched")
DIFFER = (
    "collective.op_mismatch",
    "collective.shape_mismatch",
    "collective.count_uneven",
)
BOTH_SIDES = (*DIFFER, "p2p.cycle", "p2p.unmatched", "collective.cycle")
CODES: dict[str, tuple[str, ...]] = {
    "healthy": (),
    "straggler": (),
    "cpu stops": MISSING,
    "GIL held": MISSING,
    "dead": MISSING,
    "CUDA error": ("collective.device_behind",),
    "hung kernel": ("collective.device_behind",),
    "link down": ("collective.device_behind",),
    "skipped call": (*DIFFER, *MISSING, "collective.cycle"),
    "extra call": (*DIFFER, *MISSING, "collective.cycle"),
    "other order": (*DIFFER, "p2p.cycle", "collective.cycle"),
    "other size": ("collective.shape_mismatch",),
}
"""By fault, the codes that are right."""
CHANGES = ("skipped call", "extra call", "other order", "other size")
"""Faults that are a change of one rank's program."""
Outcome = Literal["right", "undecided", "wrong"]


@dataclass
class Scenario:
    """A job that has run with its fault, and its dumps by rank."""

    seed: int
    job: AsyncJob
    fault: Fault
    how: Recording
    dumps: dict[int, dict[str, Any]]
    unchanged: list[Call]
    """What the rank at fault should have called."""
    changed_at: int = -1
    """The first of its calls that is not what it should be."""

    @property
    def at_fault(self) -> set[int]:
        return set() if self.fault.kind == "link down" else {self.fault.rank}

    @property
    def waits(self) -> bool:
        """Whether the fault holds anybody up."""
        return self.job.hangs

    @property
    def shows_it(self) -> bool:
        """Whether any of the dumps has a call that is not over."""
        return any(self.job.ranks[rank].open_calls for rank in self.dumps)

    def __str__(self) -> str:
        layout = self.job.programs.layout
        return f"seed {self.seed}: {layout}, {self.fault}, {self.how}"

    def read(self) -> list[RankDump]:
        """The dumps, as from files."""
        return [
            RankDump(global_rank=rank, taken_ns=0, recorder=read_recorder_dump(pickle.dumps(dump)))
            for rank, dump in self.dumps.items()
        ]


def scenario(seed: int, kind: str | None = None) -> Scenario:
    """The random job of a number."""
    dice = random.Random(seed)
    # What came to the simulator later has dice of its own: the jobs of old numbers stay as they were.
    fault_kind = kind or dice.choice([one for one in CODES if one != "extra call"])
    if kind is None and random.Random(f"{seed} extra").random() < 1 / len(CODES):
        fault_kind = "extra call"
    layout = random_layout(dice)
    layout = replace(layout, p2p_in_default=random.Random(f"{seed} default").random() < 0.1)
    programs = build(layout, steps=2, microbatches=dice.choice((2, 3, 4)))
    rank = dice.randrange(programs.layout.world)
    at = dice.randrange(2, max(len(programs.calls[rank]) - 1, 3))
    fault = Fault(fault_kind, rank, at, lag=dice.randint(1, 8))
    unchanged = [copy.copy(call) for call in programs.calls[rank]]
    place = _change(programs, fault, dice)
    job = AsyncJob(programs, fault, run_ahead=dice.choice((4, 8, 32)), dice=dice)
    job.run()
    others = [one for one in job.ranks if one != rank]
    lost = {dice.choice(others)} if dice.random() < 0.15 else set()
    lost |= {rank} if fault_kind in CODES and dice.random() < 0.1 else set()
    how = Recording(
        ring=dice.choice((48, 200, 2000)),
        only_open=dice.random() < 0.4,
        timing=dice.random() < 0.5,
        keeps_p2p_open=random.Random(f"{seed} p2p").random() < 0.3,
        lost=frozenset(lost),
        gaps=random.Random(f"{seed} gaps").random() < 0.3,
    )
    return Scenario(seed, job, fault, how, dumps_of(job, how), unchanged, place)


def _change(programs: Programs, fault: Fault, dice: random.Random) -> int:
    """Makes one rank's program differ from what it should be; at which of its calls, or -1."""
    calls = programs.calls[fault.rank]
    places = [n for n, call in enumerate(calls) if not call.is_p2p and n >= fault.at] or [
        n for n, call in enumerate(calls) if not call.is_p2p
    ]
    if fault.kind == "other size":
        places = [n for n in places if calls[n].op != "all_to_all"] or places
    elif fault.kind == "other order":
        places = [n for n in places if n + 1 < len(calls) and _differ(calls[n], calls[n + 1])]
    elif fault.kind not in CHANGES:
        return -1
    place = dice.choice(places) if places else -1
    if place >= 0:
        programs.calls[fault.rank] = changed(calls, fault.kind, place)
    return place


def changed(calls: list[Call], kind: str, place: int) -> list[Call]:
    """A program with another call, one less, or two in the other order at one place."""
    new = [copy.copy(call) for call in calls]
    if kind == "skipped call":
        del new[place]
    elif kind == "extra call":
        new.insert(place, copy.copy(new[place]))
    elif kind == "other size":
        new[place].size += 1
    elif kind == "other order":
        new[place], new[place + 1] = new[place + 1], new[place]
    return new


def _differ(one: Call, other: Call) -> bool:
    return not other.is_p2p and (one.group, one.op, one.size) != (other.group, other.op, other.size)


def outcome(case: Scenario, findings: list[Finding]) -> Outcome:
    """Whether a verdict is right, says that it cannot decide, or is wrong.

    It says so where it names both sides of a call that differs, or no rank but the calls, or also a rank
    without a dump, always with less confidence.
    """
    blocking = [finding for finding in findings if finding.blocks]
    if not case.waits:
        return "wrong" if blocking else "right"
    if not blocking:
        return "wrong" if case.shows_it else "undecided"
    first = blocking[0]
    codes = CODES[case.fault.kind]
    if case.fault.rank in case.how.lost and case.fault.kind != "dead":
        codes = (*codes, *MISSING)
    blamed = {rank for finding in blocking for rank in finding.culprit_ranks}
    if first.code in codes and blamed == case.at_fault:
        return "right"
    unsure = first.confidence <= 0.8 and not victims(case, findings)
    return "undecided" if unsure and (blamed or first.waiting_ranks) else "wrong"


def victims(case: Scenario, findings: list[Finding]) -> set[int]:
    """Ranks that are blamed without a fault; not where a verdict says that it is one of several."""
    named: set[int] = set()
    for finding in findings:
        culprits = set(finding.culprit_ranks)
        one_of_two = case.fault.rank in culprits and finding.code in BOTH_SIDES
        no_dump = culprits <= case.at_fault | case.how.lost
        if finding.blocks and not (finding.confidence <= 0.8 and (one_of_two or no_dump)):
            named |= culprits
    return named - case.at_fault
