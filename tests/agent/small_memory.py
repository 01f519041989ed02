"""Ranks in a small /dev/shm: `python -m tests.agent.small_memory RUNS ROOT` says what they took.

`together`: many at one time. `after`: once those that took all were killed, one more, and another.
`repeated`: many launches, each killed, and at last a DataLoader.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from distwatch.observer.journals.leftovers import sweep
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder
from tests.support.leftovers import processes_of, wait_gone
from tests.support.waiting import wait_until

SHM = "/dev/shm"
_RANK = """
import sys
import distwatch.auto
from distwatch.agent import core
agent = core.start()
print("on" if agent else "off", flush=True)
sys.stdin.read()
"""
Rank = subprocess.Popen[str]


def start(root: str, run_id: str, rank: int, world: int, **variables: str) -> Rank:
    environ = {"DISTWATCH": "1", "DISTWATCH_DIR": root, "DISTWATCH_RUN_ID": run_id}
    return subprocess.Popen(
        [sys.executable, "-c", _RANK],
        env={**os.environ, **environ, "RANK": str(rank), "WORLD_SIZE": str(world), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state_of(rank: Rank) -> str:
    assert rank.stdout is not None
    return rank.stdout.readline().strip()


def end(rank: Rank) -> str:
    """SIGKILL; what it had said on its standard error."""
    rank.kill()
    return rank.communicate()[1]


def taken() -> int:
    """Bytes of /dev/shm that are in use."""
    whole = os.statvfs(SHM)
    return (whole.f_blocks - whole.f_bfree) * whole.f_frsize


def together(root: str) -> dict[str, object]:
    ranks = [start(root, "r", n, 40, DISTWATCH_OBSERVER="off") for n in range(40)]
    states = [state_of(rank) for rank in ranks]
    used = taken()
    rings = sorted(path.stat().st_size for path in Path(SHM).rglob("*.ring"))
    said = [line for rank in ranks for line in end(rank).splitlines()]
    return {"on": states.count("on"), "rings": rings, "taken": used, "said": said}


def after(root: str) -> dict[str, object]:
    states: list[str] = []
    dead: list[Rank] = []
    while states[-1:] != ["off"]:
        dead.append(start(root, "dead", len(dead), 40, DISTWATCH_OBSERVER="off"))
        states.append(state_of(dead[-1]))
    for rank in dead:
        end(rank)
    states.clear()
    for run_id in ("first", "second"):
        rank = start(root, run_id, 0, 1)
        states.append(state_of(rank))
        while run_id == "first" and taken() > 1 << 20:
            assert select.select([rank.stdout], [], [], 0.1)[0] == []
        end(rank)
    wait_for_observers(root)
    return {"states": states}


def wait_for_observers(root: str) -> None:
    while observers := set(processes_of(root)) - {os.getpid()}:
        assert all(wait_gone(pid, 60) for pid in observers)


def repeated(root: str) -> dict[str, object]:
    most, said = 0, []
    for launch in range(12):
        ranks = [start(root, f"r{launch}", n, 2) for n in range(2)]
        assert [state_of(rank) for rank in ranks] == ["on", "on"]
        most = max(most, taken())
        # Launches follow each other as fast as here only in a test: none before the last one's
        # observer is there, which frees what that one had.
        wait_until(lambda name=f"r{launch}": lock_holder(RunFolder(f"{root}/{name}")) is not None)
        said += [line for rank in ranks for line in end(rank).splitlines()]
        wait_until(lambda: taken() < 1 << 20)
    loaded = load_data()
    wait_for_observers(root)
    sweep(root)
    left = [str(path) for path in Path(SHM).rglob("*")]
    return {"most": most, "said": said, "loaded": loaded, "left": left}


def load_data() -> int:
    """Items that a DataLoader's workers hand over through shared memory."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    items = TensorDataset(torch.zeros(64, 16 * 1024))
    return sum(len(batch) for (batch,) in DataLoader(items, batch_size=8, num_workers=2))


if __name__ == "__main__":
    print(
        json.dumps(
            {"together": together, "after": after, "repeated": repeated}[sys.argv[1]](sys.argv[2])
        )
    )
