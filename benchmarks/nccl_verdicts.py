"""How often the verdict on random NCCL jobs is right: by fault and by layout, on doubles of their dumps."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict

from tests.doubles.async_scenarios import CODES, outcome, scenario, victims
from tests.doubles.async_twins import twin
from tests.support.imported import judge_dumps

RESULTS = ("right", "undecidable", "undecided", "wrong")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--first", type=int, default=0, help="the number of the first job")
    options.add_argument("--kind", choices=tuple(CODES), help="this fault alone")
    options.add_argument("--show", action="store_true", help="each job that is not judged right")
    proof = "try whether another rank's fault leaves the same dumps"
    options.add_argument("--prove", action="store_true", help=proof)
    arguments = options.parse_args()
    by_fault: dict[str, Counter[str]] = defaultdict(Counter)
    by_layout: dict[str, Counter[str]] = defaultdict(Counter)
    blamed, began = 0, time.perf_counter()
    for seed in range(arguments.first, arguments.first + arguments.jobs):
        case = scenario(seed, arguments.kind)
        findings = judge_dumps(case.read())
        result: str = outcome(case, findings)
        if arguments.prove and result == "undecided" and twin(case) is not None:
            result = "undecidable"
        layout = case.job.programs.layout
        axes = "+".join(a for a in ("tp", "cp", "dp", "pp", "ep") if getattr(layout, a) > 1)
        by_fault[case.fault.kind][result] += 1
        by_layout[axes][result] += 1
        wrongly = victims(case, findings)
        blamed += bool(wrongly)
        if arguments.show and (result != "right" or wrongly):
            print(f"{result}: {case}; victims {sorted(wrongly)}")
            for finding in findings[:3]:
                print(
                    f"    {finding.role} {finding.code} {finding.culprit_ranks} {finding.summary}"
                )
    for title, table in (("fault", by_fault), ("layout", by_layout)):
        print(f"\n| {title} | jobs | {' | '.join(RESULTS)} |\n|---|---:{'|---:' * len(RESULTS)}|")
        for name, counts in sorted(table.items()):
            columns = " | ".join(str(counts[result]) for result in RESULTS)
            print(f"| {name} | {counts.total()} | {columns} |")
    right = sum(counts["right"] for counts in by_fault.values())
    seconds = time.perf_counter() - began
    print(f"\n{right} of {arguments.jobs} right; {blamed} jobs with a victim; {seconds:.0f} s")


if __name__ == "__main__":
    main()
