"""What `import distwatch.auto` costs a fresh interpreter: milliseconds and MB, against none.

Bare and importing interpreters alternate, and the medians of the paired differences are told:
the machine's mood changes more between two minutes than between two processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]
BARE, IMPORT = "pass", "import distwatch.auto"
HEAVY = ("torch", "textual", "rich", "psutil", "msgspec", "asyncio")
RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


def environment(root: str, variables: dict[str, str]) -> dict[str, str]:
    """A process's environment, in which byte code is kept, as that of an installed package is."""
    env = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY), "DISTWATCH_DIR": root}
    for name in ("DISTWATCH", "PYTHONDONTWRITEBYTECODE"):
        env.pop(name, None)
    return {**env, "PYTHONPYCACHEPREFIX": f"{root}/byte-code"}


def run_interpreter(code: str, env: dict[str, str]) -> tuple[float, float]:
    """Wall milliseconds and peak MB of one interpreter."""
    # Not ru_maxrss: a child starts with its parent's.
    command = [sys.executable, "-c", f"{code}\nprint(open('/proc/self/status').read())"]
    begin = time.perf_counter()
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    spent_ms = (time.perf_counter() - begin) * 1e3
    return spent_ms, int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024


def measure(title: str, variables: dict[str, str], rounds: int, root: str) -> None:
    """Prints the cost for a process with these variables."""
    env = environment(root, variables)
    for code in (BARE, IMPORT):
        run_interpreter(code, env)  # writes the byte code
    pairs = [(run_interpreter(BARE, env), run_interpreter(IMPORT, env)) for _ in range(rounds)]
    bare = median(b[0] for b, _ in pairs)
    extra_ms = median(i[0] - b[0] for b, i in pairs)
    extra_mb = median(i[1] - b[1] for b, i in pairs)
    print(f"{title}: +{extra_ms:.1f} ms, +{extra_mb:.2f} MB (a bare interpreter: {bare:.1f} ms)")


def loaded_modules(root: str) -> str:
    """Which heavy modules the import brings along."""
    code = f"{IMPORT}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(root, RANK),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or f"none of {', '.join(HEAVY)}"


def main() -> None:
    """Measures a plain process and a rank."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=40)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="distwatch-bench-") as root:
        measure("import distwatch.auto, no rank", {}, rounds, root)
        measure("import distwatch.auto, a rank ", RANK, rounds, root)
        print(f"loaded by it: {loaded_modules(root)}")


if __name__ == "__main__":
    main()
