"""What distwatch says about each case of the scenario scripts, and how soon: real ranks, gloo on a CPU.

Prints a row for each case: what was found, after how many seconds, whether that is right (the kind, the
ranks, and nobody else blamed at the root), and the line that is named as the one where the ranks part: right is
the line that the script marks for the case, and no other subject than the marked one. Of a case without a mark,
none is right. `benchmarks/scenario_cases.py` lists the cases.
With `--both`, each case runs twice, with the compiled record of calls and by Python alone, and the two verdicts
are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.scenario_cases import CASES, DIVERGENCES, PARTINGS, Case
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import PartialData
from distwatch.observer.targets.target import with_sources
from distwatch.state.finding import Finding, Way
from tests.support.call_paths import by_python_alone
from tests.support.folder_watch import FolderWatch
from tests.support.marked_lines import marked_lines
from tests.support.ranks import Job, launch_ranks, torchrun

WhyGrade = Literal["right", "wrong", "missing", "none expected"]
"""`wrong` is also a line that is named where the code does not part."""
WITHIN_S = 45.0
"""After the world has formed."""
FORMED_WITHIN_S = 120.0
SETTLED_S = 4.0
"""A verdict counts once it has held for this long: the evidence of a stack comes a little later."""
SETS = {"faults": CASES, "partings": PARTINGS, "divergences": DIVERGENCES}


class Outcome(NamedTuple):
    """What came of a case."""

    right: bool
    told: str
    why: WhyGrade


def is_right(case: Case, findings: list[Finding]) -> bool:
    """Whether the first finding is one of the expected ones, about the right ranks."""
    if not case.codes:
        return not any(finding.blocks for finding in findings)
    first = next(iter(findings), None)
    return (
        first is not None
        and first.code in case.codes
        and set(first.culprit_ranks) == set(case.culprits)
    )


def told(findings: list[Finding]) -> str:
    """The root in a few words."""
    if not findings:
        return "nothing"
    first = findings[0]
    return f"{first.severity} {first.code} {list(first.culprit_ranks)}"


def why_of(findings: list[Finding]) -> Way | None:
    """The way under a condition, which the summary names."""
    return next((way for way in (findings[0].why if findings else ()) if way.condition), None)


def words_of(way: Way | None) -> str:
    """The line at which the ranks part, and what it says."""
    if way is None:
        return "none"
    return f"`{way.condition}`, {os.path.basename(way.file)}:{way.condition_line}" + (
        f" ({way.kind}, {way.about or 'about ?'})"
    )


def marks_of(case: Case) -> dict[tuple[str, int], str]:
    """The lines that decide a case, each with its topics."""
    return marked_lines(case.script, case.args[0]) if case.args else {}


def judge_why(case: Case, way: Way | None) -> WhyGrade:
    """Whether the named line is a marked one, and about what it is marked for; not to know that is no fault."""
    marks = marks_of(case)
    if way is None:
        return "missing" if marks else "none expected"
    topics = marks.get((os.path.basename(way.file), way.condition_line))
    return "right" if topics is not None and way.about in ("", *topics.split()) else "wrong"


def has_formed(case: Case, job: Job) -> bool:
    """Whether as many ranks as the case starts hold their world, or have ended, or something was found."""
    try:
        processes = job.state().processes.values()
    except PartialData:
        return False
    there = [p for p in processes if p.role == "rank" and (p.groups or p.ended_ns is not None)]
    return len(there) >= len(case.ranks or range(case.world)) or bool(judged(job))


def watch(case: Case, job: Job) -> tuple[list[Finding], float]:
    """The verdict that holds, and when it first stood: seconds since the world has formed."""
    changes = FolderWatch(job.folder.path)
    give_up = time.monotonic() + FORMED_WITHIN_S
    while not has_formed(case, job) and time.monotonic() < give_up:
        changes.wait(1.0)
    began = time.monotonic()
    since, seen = began, ""
    findings: list[Finding] = []
    while time.monotonic() < began + WITHIN_S:
        changes.wait(1.0)
        findings = judged(job)
        if (now := told(findings)) != seen:
            seen, since = now, time.monotonic()
        right = bool(case.codes) and is_right(case, findings)
        right = right and judge_why(case, why_of(findings)) != "missing"
        if right and time.monotonic() - since >= SETTLED_S:
            break
    changes.close()
    return findings, since - began


def judged(job: Job) -> list[Finding]:
    """The verdict that any viewer shows now; none where nothing was written yet."""
    try:
        return diagnose(with_sources(job.state()))
    except PartialData:
        return []


def run_case(case: Case, env: Mapping[str, str] | None = None) -> Outcome:
    """Runs one case and prints its line."""
    arguments = (case.script, case.world)
    given = {"args": case.args, "env": {**case.env, **(env or {})}}
    reading, writing = os.pipe()
    typed = dict.fromkeys(case.culprits, reading) if case.types else None
    launched = (
        torchrun(*arguments, **given)  # type: ignore[arg-type]
        if case.torchrun
        else launch_ranks(*arguments, ranks=case.ranks, stdin_of=typed, **given)  # type: ignore[arg-type]
    )
    with os.fdopen(reading), os.fdopen(writing), launched as job:
        findings, after_s = watch(case, job)
        right = is_right(case, findings)
        words = findings[0].summary if findings else job.output()[-200:]
        if findings and why_of(findings) is not None:
            words += f" [advice: {findings[0].advice}]"
        words = " ".join(words.replace("|", "/").split())
    verdict = (
        "yes" if right else f"NO, not {'/'.join(case.codes) or 'silent'} {list(case.culprits)}"
    )
    grade = judge_why(case, way := why_of(findings))
    print(
        f"| {case.name} | {told(findings)} | {verdict} | {after_s:.1f} | {grade} | {words_of(way)} | {words} |",
        flush=True,
    )
    return Outcome(right, told(findings), grade)


def run_both(case: Case) -> Outcome:
    """Runs it on both paths; right where both are right and tell the same."""
    right, compiled, grade = run_case(case)
    with tempfile.TemporaryDirectory(prefix="dw-bench-") as folder:
        also_right, by_python, _ = run_case(case, by_python_alone(Path(folder)))
        if not Path(folder, "used").exists():
            raise SystemExit("the second run had the compiled record, too")
    if compiled != by_python:
        print(f"| | NOT THE SAME: {compiled}; by Python alone: {by_python} | | | | | |")
    return Outcome(right and also_right and compiled == by_python, compiled, grade)


def main() -> None:
    """Runs the chosen cases."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("cases", nargs="*", help="words of their names; default: all")
    options.add_argument("--both", action="store_true", help="with and without the compiled record")
    options.add_argument("--set", choices=SETS, default="faults", help="which cases")
    arguments = options.parse_args()
    chosen = arguments.cases
    listed = SETS[arguments.set]
    cases = [case for case in listed if not chosen or any(word in case.name for word in chosen)]
    if arguments.both and importlib.util.find_spec("distwatch.agent._calls") is None:
        raise SystemExit("there is no compiled record here: pip install -e . with a compiler")
    print(
        "| case | found | right | after s | why | the line | in words |\n|---|---|---|---:|---|---|---|",
        flush=True,
    )
    outcomes = [run_both(case) if arguments.both else run_case(case) for case in cases]
    right = sum(outcome.right for outcome in outcomes)
    same = ", and the same on both paths" if arguments.both else ""
    print(f"{right} of {len(cases)} right{same}")
    grades = Counter(outcome.why for outcome in outcomes)
    parted = len(cases) - sum(not marks_of(case) for case in cases)
    print(f"why: {grades['right']} of {parted} right where the code parts; all: {dict(grades)}")
    sys.exit(0 if right == len(cases) else 1)


if __name__ == "__main__":
    main()
