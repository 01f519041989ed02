"""Merging the stacks of very many ranks into one tree: time and memory.

Depth 30. The usual hang: some hundred different stacks, most ranks in one of them. The worst
case: no two ranks in the same place.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc

from distwatch.state.events import Frame
from distwatch.views.stack_tree import StackNode, merge

DEPTH = 30


def stacks_of(ranks: int, kinds: int) -> dict[int, tuple[Frame, ...]]:
    """`kinds` different stacks, which part at random depths; a few ranks in each but the first."""
    chance = random.Random(7)
    usual = tuple(Frame(function=f"f{n}", file=f"/job/module{n}.py", line=n) for n in range(DEPTH))
    made = [usual]
    for kind in range(1, kinds):
        part = chance.randrange(DEPTH // 2, DEPTH)
        inner = tuple(
            Frame(function=f"g{n}", file="/job/other.py", line=kind) for n in range(part, DEPTH)
        )
        made.append(usual[:part] + inner)
    if kinds >= ranks:
        return dict(enumerate(made[:ranks]))
    return {
        r: made[chance.randrange(kinds)] if chance.random() < 0.1 else usual for r in range(ranks)
    }


def count_nodes(nodes: list[StackNode]) -> int:
    todo, count = list(nodes), 0
    while todo:
        node = todo.pop()
        count += 1
        todo += node.children
    return count


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, nargs="*", default=[1024, 100_000])
    print("| ranks | different stacks | seconds | peak MiB | nodes |")
    print("|---:|---:|---:|---:|---:|")
    for ranks in options.parse_args().ranks:
        for kinds in (min(300, ranks), ranks):
            stacks = stacks_of(ranks, kinds)
            began = time.perf_counter()
            tree = merge(stacks)
            took = time.perf_counter() - began
            nodes = count_nodes(tree)
            del tree
            tracemalloc.start()
            merge(stacks)
            peak = tracemalloc.get_traced_memory()[1] >> 20
            tracemalloc.stop()
            print(f"| {ranks} | {kinds} | {took:.3f} | {peak} | {nodes} |", flush=True)


if __name__ == "__main__":
    main()
