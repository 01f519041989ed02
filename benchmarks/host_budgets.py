"""What distwatch adds, at the worst, where a process raises, exits, forks or takes a signal: ms.

Each case runs in interpreters of its own, in which a rank's agent runs with all that it can hold.
The budget is 50 ms: a peer waits meanwhile.
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
RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
BUDGET_MS = 50.0

_FULL_AGENT = """
import os, sys, time
import distwatch.auto
from distwatch.agent import core
from distwatch.state import events as ev
agent = core.start()
site = ev.Site(file="/job/" + "x" * 200 + ".py", line=1, function="f")
for n in range(5000):
    agent.record(ev.GroupCalled(number=n, members=tuple(range(16)), site=site))
    agent.record(ev.SiteSeen(number=n, site=site))
    agent.record(ev.MeshMade(device="cpu", sizes=(n,), site=site))
    agent.record(ev.GroupCreated(pg_name=str(n), members=tuple(range(64))))
agent.progress_sources.append(
    lambda: [ev.GroupProgress(pg_name=str(n), enqueued=n, completed=n) for n in range(64)]
)
agent.beat()
clock = time.perf_counter
"""

_RAISED = """
plain = sys.__excepthook__
written = os.open(os.devnull, os.O_WRONLY)
sys.stderr = os.fdopen(written, "w")
import traceback
def spent(hook, error):
    begin = clock()
    hook(type(error), error, error.__traceback__)
    return clock() - begin
def caught(work):
    try:
        work()
    except BaseException as error:
        return error
# The hook ends with Python's own, which may take longer than ours: it is left out.
closure = dict(zip(sys.excepthook.__code__.co_freevars, sys.excepthook.__closure__))
closure["previous"].cell_contents = lambda *_: None
error = caught(work)
print(spent(sys.excepthook, error) * 1e3)
"""

_EXCEPTIONS = {
    "an ordinary exception": "def work(): raise ValueError('bad batch')",
    "29 KB of 0-1-2-…": "def work(): raise ValueError('0-1-2-' * 5000)",
    "120 KB of x-": "def work(): raise ValueError('x-' * 60000)",
    "a message of 1 GB": "text = 'token=' + 'a' * (1 << 30)\\ndef work(): raise ValueError(text)",
    "a message of numbers in a list": "def work(): raise ValueError(list(range(3_000_000)))",
    "str() that never returns": (
        "import threading\\nclass E(Exception):\\n"
        "    def __str__(self): threading.Event().wait()\\ndef work(): raise E()"
    ),
    "a chain of 10,000": (
        "def work():\\n    error = ValueError('first')\\n    for n in range(10000):\\n"
        "        later = ValueError(str(n)); later.__cause__ = error; error = later\\n    raise error"
    ),
    "a traceback of 100,000 frames": (
        "sys.setrecursionlimit(200000)\\nimport threading; threading.stack_size(512 << 20)\\n"
        "def deep(n):\\n    if n: return deep(n - 1)\\n    raise ValueError('deep')\\n"
        "def work():\\n    found = []\\n    def run():\\n        try: deep(100000)\\n"
        "        except ValueError as error: found.append(error)\\n"
        "    one = threading.Thread(target=run); one.start(); one.join(); raise found[0]"
    ),
    "a source file that is a FIFO": (
        "os.mkfifo(os.environ['DISTWATCH_DIR'] + '/fifo.py')\\n"
        "exec(compile('def work(): raise ValueError(1)', os.environ['DISTWATCH_DIR'] + '/fifo.py', 'exec'))"
    ),
    "a source file of 2 GB": (
        "path = os.environ['DISTWATCH_DIR'] + '/large.py'\\nopen(path, 'w').truncate(2 << 30)\\n"
        "exec(compile('\\\\n' * 9999 + 'def work(): raise ValueError(1)', path, 'exec'))"
    ),
    "a group of 50,000": (
        "def work():\\n    raise ExceptionGroup('many', [ValueError('x' * 90)] * 50000)"
        if sys.version_info >= (3, 11)
        else "def work(): raise ValueError()"
    ),
}

_EXIT = """
import atexit
begin = clock()
core.current()._exit()
print((clock() - begin) * 1e3)
"""

_FORK = """
read, write = os.pipe()
begin = clock()
if os.fork() == 0:
    os.write(write, repr((clock() - begin) * 1e3).encode())
    os._exit(0)
print(os.read(read, 99).decode())
"""

_SIGNAL = """
import signal
worst = 0.0
def handler(*_):
    global worst
    begin = clock()
    agent.record(ev.StepStarted(step=1, name="step"))
    worst = max(worst, clock() - begin)
signal.signal(signal.SIGUSR1, handler)
for _ in range(20000):
    os.kill(os.getpid(), signal.SIGUSR1)
print(worst * 1e3)
"""

CASES = {
    **{
        f"raises: {name}": code.replace("\\n", "\n") + _RAISED for name, code in _EXCEPTIONS.items()
    },
    "exits: all that an agent can hold": _EXIT,
    "forks": _FORK,
    "a handler that records, 20,000 times: the longest, the ring's wrap in it": _SIGNAL,
}


def measure(code: str, folder: str) -> float:
    """Milliseconds, as the interpreter itself says them."""
    env = {
        **os.environ, **RANK, "PYTHONPATH": str(REPOSITORY), "DISTWATCH_DIR": folder,
        "DISTWATCH_OBSERVER": "off",
    }  # fmt: skip
    env.pop("DISTWATCH", None)
    done = subprocess.run(
        [sys.executable, "-c", _FULL_AGENT + code],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints a line a case; exit code 1 where the median is over the budget."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds, late = options.parse_args().rounds, 0
    for name, code in CASES.items():
        spent = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="distwatch-bench-") as folder:
                spent.append(measure(code, folder))
        late += median(spent) > BUDGET_MS
        print(f"{median(spent):8.2f} ms  (worst of {rounds}: {max(spent):.2f})  {name}")
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
