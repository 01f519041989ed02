"""Real jobs that hang: what `distwatch demo` starts, and what it must find."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NamedTuple

NPROC = 4
LIMIT_S = 120
"""The job ends after this time in any case."""


class DemoCase(NamedTuple):
    """One fault. `expected_code` is '' for the job without a fault."""

    name: str
    summary: str
    expected_code: str
    culprit_ranks: tuple[int, ...]


CASES = {
    case.name: case
    for case in (
        DemoCase(
            "data_stall",
            "rank 2's next data shard is on a source that stopped answering; the others wait in "
            "backward's all_reduce",
            "process.data_stall",
            (2,),
        ),
        DemoCase(
            "rank_missing",
            "only rank 1 evaluates, and waits for a worker that has ended; the others keep training",
            "collective.rank_missing",
            (1,),
        ),
        DemoCase(
            "load_stall",
            "one shard of rank 1's checkpoint cannot be read; the others wait for its model",
            "load.stalled",
            (1,),
        ),
        DemoCase(
            "gil_held",
            "rank 0 is in native code that keeps the GIL",
            "process.gil_held",
            (0,),
        ),
        DemoCase("exited", "rank 2 raises an exception", "process.exited", (2,)),
        DemoCase("killed", "rank 3 gets SIGKILL, as if from the kernel", "process.killed", (3,)),
        DemoCase("healthy", "nothing goes wrong: the job trains and ends", "", ()),
    )
}
DEFAULT_CASE = "data_stall"


def command(case: str, folder: str) -> list[str]:
    """The torchrun command of a case; copies its training script into `folder`, which must exist.

    The script runs from there because it is the user's code in this demo, not a part of distwatch. The job
    ends with the process that starts this command, and after LIMIT_S in any case.

    Raises:
        KeyError: there is no such case.
    """
    name = CASES[case].name
    script = os.path.join(folder, "train.py")
    shutil.copyfile(os.path.join(os.path.dirname(os.path.abspath(__file__)), "job.py"), script)
    tied = [sys.executable, "-m", "distwatch.demo.tied"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nnodes=1", f"--nproc-per-node={NPROC}"]
    return [*tied, *torchrun, script, name, "--folder", folder, "--limit", str(LIMIT_S)]


def environment() -> dict[str, str]:
    """Variables to add to the caller's: distwatch on, with deadlines short enough for a demo."""
    return {
        "DISTWATCH": "1",
        "DISTWATCH_DEADLINES": "init=60,group=60,load=8,collective=8",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
