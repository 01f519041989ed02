"""What distwatch adds to a program that forks 500 short-lived processes, in ms each, and what they leave.

Interpreters with and without it alternate, and the median of the paired differences is told: the
machine's mood changes more between two minutes than between two processes. The budget is 1 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]
BUDGET_MS = 1.0
FORKS = 500

_STORM = f"""
import os, time
# Every fork is as early as it can be: while the process still waits to enter its run.
began = time.perf_counter()
for _ in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
print((time.perf_counter() - began) / {FORKS} * 1e3)
"""
_PATIENT = "import distwatch.agent.standby as standby; standby.ENTER_AFTER_S = 600.0\n"


def storm(code: str, root: str) -> float:
    """Milliseconds for each fork."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DISTWATCH_DIR": root}
    env.pop("DISTWATCH", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> int:
    """Exits with 1 where the budget is not met, or something is left."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/runs"
        ours = _PATIENT + "import distwatch.auto\n" + _STORM
        pairs = [(storm(_STORM, root), storm(ours, root)) for _ in range(rounds)]
        left = sorted(os.listdir(root)) if os.path.isdir(root) else []
    added = median(with_us - bare for bare, with_us in pairs)
    bare = median(one for one, _ in pairs)
    print(
        f"{FORKS} forks: +{added:.3f} ms each (bare: {bare:.3f} ms); left behind: {left or 'nothing'}"
    )
    return int(added >= BUDGET_MS or bool(left))


if __name__ == "__main__":
    sys.exit(main())
