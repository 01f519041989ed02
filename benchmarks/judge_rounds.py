"""What a round of judging costs at a root of very many ranks that train: CPU of one core, and what came meanwhile.

    python benchmarks/judge_rounds.py [--ranks 10000] [--nodes 1250] [--rounds 20]

Before each round every rank's pulse and sample are folded, as they come twice a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

from scale.nodes import Node, spread
from scale.ranks import Training, pulse_of, sample_of, start_of

from distwatch.observer import judging
from distwatch.observer.journals.recording import Recording
from distwatch.observer.judging import Judge
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce

CALM_ROUNDS = 12
"""Enough for every check to have run again."""


def run(options: argparse.Namespace, folder: RunFolder) -> None:
    training = Training(options.ranks, 0, deadline_s=300.0)
    training.began_ns -= 600_000_000_000
    state = RunState(run_id=folder.run_id)
    recording = Recording(folder, lambda *_: None, lambda *_: None)
    judge = Judge(folder, state, recording)
    nodes = list(spread(folder.path, options.nodes, options.ranks, training))

    def tell(node: Node, stream: object, seq: int, event: ev.Event) -> None:
        reduce(state, stream.header, seq, time.monotonic_ns(), event)  # type: ignore[attr-defined]
        judge.note(event)

    for node in nodes:
        for n, rank in enumerate(node.ranks):
            for seq, event in enumerate(start_of(node._started(n, rank), training), 1):
                tell(node, node._own[rank], seq, event)

    def beat(number: int) -> None:
        for node in nodes:
            for rank, key in node.keys.items():
                tell(node, node.recording, 0, pulse_of(training, rank, key, number))
                tell(node, node.recording, 0, sample_of(training, rank, key))
            tell(node, node.recording, 0, ev.Ticked(host=node.host))

    whole, calm = [], []
    for number in range(1, options.rounds + 1):
        beat(number)
        began_s = time.process_time()
        judge.judge()
        whole.append(time.process_time() - began_s)
        for _ in range(CALM_ROUNDS):
            beat(number)
            began_s = time.process_time()
            rested = judge.may_rest()
            calm.append(time.process_time() - began_s)
            if not rested:
                raise SystemExit(f"not calm: {[finding.code for finding in judge.findings]}")
    recording.close()
    tell_costs(whole, calm)


def tell_costs(whole: list[float], calm: list[float]) -> None:
    for name, found in (("the whole", whole), ("a round in which nothing happened", calm)):
        print(f"{name}: median {median(found):.3f} s, {min(found):.3f} to {max(found):.3f}")
    rounds = 2 * judging.WHOLE_EVERY_S
    share = (median(whole) + sum(calm) / len(calm) * (rounds - 1)) / rounds
    print(
        f"mean, with the whole every {judging.WHOLE_EVERY_S:.0f} s and two rounds a second: {share:.3f} s"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=10_000)
    options.add_argument("--nodes", type=int, default=1_250)
    options.add_argument("--rounds", type=int, default=10)
    with tempfile.TemporaryDirectory(prefix="dw-bench-") as place:
        folder = RunFolder(f"{place}/run")
        folder.create()
        run(options.parse_args(), folder)


if __name__ == "__main__":
    main()
