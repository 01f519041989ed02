"""Each scenario, run without distwatch; what `distwatch attach --once` says about it, and how soon.

The cases are hangs from public trackers that a script of tests/scenarios/jobs shows, and
controls, of which no hang may be said. A case is right where its root cause is one of those that `cold_cases.py`
lists, with exactly those culprits; a victim is a rank that some hang or crash blames and that is not to blame.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from benchmarks.cold_cases import CASES, Case
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import PartialData
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.run_state import load_state
from distwatch.probes.process import main_thread_run_ns
from distwatch.state.finding import Finding
from tests.support.ranks import Job, free_port, launch_ranks, torchrun

LAUNCHED_S, SETTLED_WITHIN_S = 8.0, 6.0


class Seen(msgspec.Struct):
    """What attach found."""

    seconds: float
    exit_code: int
    findings: list[Finding]
    screen: str


@contextlib.contextmanager
def running(case: Case) -> Iterator[Job]:
    """The job, hanging."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        if case.busy_port:
            stack.enter_context(_foreign_listener(port))
        job = stack.enter_context(_launched(case, port, stack))
        step, rank = case.after
        if step:
            job.wait_step(step, {rank})
        else:
            time.sleep(LAUNCHED_S)  # it reports no step
        _wait_still(job)
        if case.act:
            case.act(job)
        yield job


def _wait_still(job: Job) -> None:
    """Until no main thread runs any more; a job that goes on gets SETTLED_WITHIN_S."""
    until = time.monotonic() + SETTLED_WITHIN_S
    ran: list[int | None] = []
    while time.monotonic() < until:
        before, ran = ran, [main_thread_run_ns(process.pid) for process in job.launched]
        if before == ran:
            return
        time.sleep(1.0)


def _launched(
    case: Case, port: int, stack: contextlib.ExitStack
) -> contextlib.AbstractContextManager[Job]:
    if case.under:
        options = case.under.format(port=port).split()
        return torchrun(case.script, 2, options=options, args=case.args, env={"DISTWATCH": "0"})
    stdin_of = {}
    if case.stdin is not None:
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        stdin_of[case.stdin] = reading
    started = case.started or tuple(range(case.world))
    return launch_ranks(
        case.script,
        case.world,
        ranks=started,
        without_distwatch=started,
        args=case.args,
        env=case.env,
        port=port,
        stdin_of=stdin_of,
    )


@contextlib.contextmanager
def _foreign_listener(port: int) -> Iterator[None]:
    """A program that has the port, and answers nobody."""
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept(); input()"
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        _wait_listening(port)
        yield
    finally:
        program.kill()
        program.wait()


def _wait_listening(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def attach(case: Case, job: Job, *options: str) -> Seen:
    """What `attach --once` says, with those options."""
    alive = [p for p in job.launched if p.poll() is None]
    root = os.path.join(job.root, "cold")
    os.mkdir(root, 0o700)
    chosen = job.launched[case.target] if len(job.launched) > case.target else alive[0]
    pid = chosen.pid if chosen.poll() is None else alive[0].pid
    command = [sys.executable, "-m", "distwatch", "attach", "--once", *options, str(pid)]
    env = {**os.environ, "DISTWATCH_DIR": root, "COLUMNS": "240"}
    began = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    taken = time.monotonic() - began
    findings: list[Finding] = []
    for folder in run_folders(root):
        with contextlib.suppress(PartialData):
            state = load_state(folder)
            # The agents that --inject leaves behind have the job's own deadlines again by now.
            findings = diagnose(state) or list(state.recorded_findings)
    return Seen(taken, done.returncode, findings, done.stdout + done.stderr)


def judge(case: Case, seen: Seen) -> tuple[str, str]:
    """What was found, and whether that is right."""
    blocking = [f for f in seen.findings if f.blocks]
    root = blocking[0] if blocking else None
    # Ranks that are at fault alike, each for a reason of its own, are findings of their own.
    alike = [f for f in blocking if root and f.role == "root" and f.code == root.code]
    culprits = {rank for finding in alike for rank in finding.culprit_ranks}
    found = f"{root.code} {sorted(culprits)}" if root else "nothing that blocks"
    if not case.codes:
        return found, "right" if root is None and seen.exit_code == 0 else "WRONG"
    victims = {r for f in blocking for r in f.culprit_ranks} - set(case.culprits)
    verdict = "right"
    if root is None or seen.exit_code != 3:
        verdict = "SILENT"
    elif root.code not in case.codes:
        verdict = "OTHER CODE"
    elif culprits != set(case.culprits):
        verdict = "OTHER CULPRITS"
    return found, verdict + (f", BLAMES {sorted(victims)}" if victims else "")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", help="words of the cases' names; all by default")
    options.add_argument("--screen", action="store_true", help="also print what attach printed")
    options.add_argument("--inject", action="store_true", help="with `attach --inject`")
    chosen = options.parse_args()
    more = ["--inject"] if chosen.inject else []
    right = hangs = 0
    print("| case | seconds | load | found | |\n|---|---:|---:|---|---|")
    for name, case in CASES.items():
        if chosen.names and not any(word in name for word in chosen.names):
            continue
        try:
            with running(case) as job:
                seen = attach(case, job, *more)
        except AssertionError as error:
            print(f"| {name} | | | NOT RUN: {str(error)[:200]} | |", flush=True)
            continue
        found, verdict = judge(case, seen)
        hangs += bool(case.codes)
        right += bool(case.codes) and verdict == "right"
        print(
            f"| {name} | {seen.seconds:.1f} | {os.getloadavg()[0]:.1f} | {found} | {verdict} |",
            flush=True,
        )
        if chosen.screen or (case.codes and not seen.findings):
            print(seen.screen)
    print(f"{right} of {hangs} hangs right")


if __name__ == "__main__":
    main()
