"""How fast a log is read: megabytes a second of CPU, for a log of steps that ends in a watchdog's timeouts.

python benchmarks/log_import.py [--megabytes 200]
"""

from __future__ import annotations

import argparse
import random
import time

from distwatch.dumps.log.job_log import LogFile, read_log

RANKS = 8


def step_line(rank: int, step: int, numbers: random.Random) -> str:
    loss, rate = numbers.random() * 3, numbers.randint(38_000, 42_000)
    return (
        f"[rank{rank}]: step {step} | loss {loss:.4f} | lr 1.2e-04 | tok/s {rate} | data 0.03 s\n"
    )


def timeouts(seq: int) -> str:
    return "".join(
        f"[rank{rank}]:[E412 09:22:41.16197306{rank} ProcessGroupNCCL.cpp:632] [Rank {rank}] Watchdog caught "
        f"collective operation timeout: WorkNCCL(SeqNum={seq}, OpType=ALLREDUCE, NumelIn=26214400, "
        "NumelOut=26214400, Timeout(ms)=600000) ran for 600042 milliseconds before timing out.\n"
        for rank in range(RANKS - 1)
    )


def log_of(megabytes: int) -> bytes:
    """Steps of all ranks, then seven ranks that wait for the eighth."""
    numbers = random.Random(7)
    block = "".join(
        step_line(line % RANKS, line // RANKS, numbers) for line in range(100_000)
    ).encode()
    whole = block * (megabytes * 1_000_000 // len(block) + 1)
    return whole + timeouts(8823).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    content = log_of(parser.parse_args().megabytes)
    best = 0.0
    for _ in range(3):
        began = time.process_time()
        facts = read_log(LogFile(name="train.log", content=content, scope="train.log"))
        best = max(best, len(content) / 1e6 / (time.process_time() - began))
    print("| log MB | facts | MB/s |\n|---:|---:|---:|")
    print(f"| {len(content) / 1e6:.0f} | {len(facts)} | {best:.0f} |")


if __name__ == "__main__":
    main()
