"""Real ranks under a test: launched, followed by named steps, judged by the observer, ended.

Nothing here sleeps: a test waits for a step (a line in a pipe), for an end (a pidfd) or for a
change of the run folder (inotify), each with a deadline, and a failure shows the whole job.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import PartialData
from distwatch.observer.journals.run_state import load_state
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import Process, RunState
from tests.support.environment import inherited_environment
from tests.support.folder_watch import FolderWatch
from tests.support.leftovers import end_processes, is_running, processes_of, wait_gone
from tests.support.verdicts import assert_verdict, text_of
from tests.support.without_torch import skip_without_torch

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = REPOSITORY / "tests" / "scenarios" / "jobs"
DEADLINES = "init=4,group=4,load=4,collective=4"
PATIENT = "init=100,group=100,load=100,collective=100"
"""For jobs whose slowness is legitimate: nothing may be said before that."""
RUN_ID = "scenario"


class Job:
    """One job of real processes, with its own run root, port and pipes."""

    def __init__(self) -> None:
        # Short and outside pytest's long names: a Unix socket's path holds 107 bytes.
        self.root = tempfile.mkdtemp(prefix="dw-", dir="/tmp")
        self.folder = RunFolder(os.path.join(self.root, RUN_ID))
        self.folder.create()
        self.work = Path(tempfile.mkdtemp(prefix="work-", dir=self.root))
        self.launched: list[subprocess.Popen[bytes]] = []
        self.seen_steps: set[tuple[str, int]] = set()
        self._steps_path = str(self.work / "steps")
        os.mkfifo(self._steps_path)
        # Read and write: a pipe with a writer never reports its end.
        self._steps = os.open(self._steps_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._unread = b""
        self._watch = FolderWatch(self.folder.path)

    # ---- launching -----------------------------------------------------------------------

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: str,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Starts one process of the job; its output goes to `log` in the work folder."""
        with open(self.work / log, "wb") as output:
            self.launched.append(
                subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**inherited_environment(), **self.environment(), **env},
                    cwd=self.work,
                    start_new_session=True,
                )
            )

    def environment(self) -> dict[str, str]:
        return {
            "DISTWATCH": "1",
            "DISTWATCH_DIR": self.root,
            "DISTWATCH_RUN_ID": RUN_ID,
            "DISTWATCH_DEADLINES": DEADLINES,
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(JOBS)]),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TEST_STEPS": self._steps_path,
            "TEST_WORK": str(self.work),
        }

    # ---- steps ---------------------------------------------------------------------------

    def wait_step(self, name: str, ranks: Iterable[int], timeout_s: float = 60.0) -> None:
        """Blocks until each of `ranks` has reported the step; fails where time or the job is over."""
        wanted = {(name, rank) for rank in ranks}
        limit = self._until(timeout_s)
        while missing := wanted - self.seen_steps:
            pidfds = [os.pidfd_open(p.pid) for p in self.launched if p.poll() is None]
            try:
                left_s = max(0.0, limit - time.monotonic()) if pidfds else 0.0
                ready, _, _ = select.select([self._steps, *pidfds], [], [], left_s)
            finally:
                for descriptor in pidfds:
                    os.close(descriptor)
            if self._steps in ready:
                self._read_steps()
            elif not ready or not pidfds:
                why = "in time" if pidfds else "before every process had ended"
                raise AssertionError(f"steps {sorted(missing)} were not reached {why}")

    def _until(self, timeout_s: float) -> float:
        # A crowded machine takes a minute to import a torch for CUDA.
        return time.monotonic() + (timeout_s if self.seen_steps else max(timeout_s, 120))

    def _read_steps(self) -> None:
        *lines, self._unread = (self._unread + os.read(self._steps, 1 << 16)).split(b"\n")
        for line in lines:
            rank, _, name = line.decode().partition(":")
            self.seen_steps.add((name, int(rank)))

    def open_gate(self, name: str, rank: int) -> None:
        """Lets a rank pass its `gate(name)`, which it must have reached."""
        self.wait_step(f"gate {name}", {rank})
        descriptor = os.open(self.work / f"gate-{name}-{rank}", os.O_WRONLY | os.O_NONBLOCK)
        os.write(descriptor, b".")
        os.close(descriptor)

    # ---- ends ----------------------------------------------------------------------------

    def wait_ended(self, timeout_s: float = 60.0) -> list[int]:
        """Waits for all launched processes; their exit codes, negative for a signal."""
        limit = self._until(timeout_s)
        return [p.wait(max(0.1, limit - time.monotonic())) for p in self.launched]

    def wait_observer_ended(self, timeout_s: float = 60.0) -> None:
        """Waits until the observer has ended by itself."""
        if (pid := self.observer_pid()) is not None:
            assert wait_gone(pid, timeout_s), f"the observer, pid {pid}, is still there"

    def observer_pid(self) -> int | None:
        """The pid in the observer's lock, where that process lives."""
        try:
            pid = int(Path(self.folder.lock).read_bytes().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if is_running(pid) else None

    def kill(self, rank: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to one rank."""
        os.kill(self.pid_of(rank), sign)

    def kill_everything(self, *, observer: bool) -> None:
        """SIGKILL to the launcher and every rank at once, and to the observer on request."""
        killed = {*processes_of(self.root)} - (set() if observer else {self.observer_pid()})
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_ended()
        assert all(wait_gone(pid, 60.0) for pid in killed), "a killed rank is still there"

    def pid_of(self, rank: int) -> int:
        """The process of a rank, from its start record."""
        starts = [s for s in self.folder.starts() if s.get("role") == "rank"]
        return next(int(s["pid"]) for s in starts if s.get("RANK") == str(rank))

    # ---- what is judged --------------------------------------------------------------------

    def state(self) -> RunState:
        """The run as it can be read from disk now."""
        return load_state(self.folder)

    def _state_or_nothing(self) -> RunState:
        try:
            return self.state()
        except PartialData:
            return RunState()  # nobody has written anything yet

    def wait_state(
        self, condition: Callable[[RunState], bool], timeout_s: float = 60.0
    ) -> RunState:
        """Blocks until the state read from disk satisfies the condition; that state."""
        limit = self._until(timeout_s)
        while True:
            state = self._state_or_nothing()
            if condition(state):
                return state
            left_s = limit - time.monotonic()
            assert left_s > 0, f"{condition.__name__} did not become true in time"
            # Pulses are memory maps, whose changes no kernel announces: look once a second, too.
            self._watch.wait(min(left_s, 1.0))

    def wait_verdict(
        self,
        code: str | Iterable[str],
        culprits: Iterable[int],
        *,
        mentions: Sequence[str] = (),
        timeout_s: float = 60.0,
    ) -> Finding:
        """Blocks until the observer has judged so, and nobody else is blamed; the finding.

        Args:
            code: one code, or several of which any is right.
            mentions: words of its evidence, which may come later than the finding, as a stack does.
        """
        codes, blamed = {code} if isinstance(code, str) else set(code), set(culprits)

        def observer_judged(state: RunState) -> bool:
            found = [f for f in state.recorded_findings if f.code in codes]
            right = [f for f in found if set(f.culprit_ranks) == blamed]
            # A symptom may name what the evidence of its cause does not hold yet.
            return bool(right) and all(words in text_of(right[0]) for words in mentions)

        state = self.wait_state(observer_judged, timeout_s)
        return assert_verdict(
            state.recorded_findings, code=codes, culprits=blamed, mentions=mentions
        )

    def wait_ticks(self, count: int, timeout_s: float = 60.0) -> None:
        """Blocks until the observer has looked `count` more times: it had its chance to be wrong."""
        start = _newest_ns(self.state())

        def observer_looked(state: RunState) -> bool:
            return _newest_ns(state) >= start + count * 1_000_000_000

        self.wait_state(observer_looked, timeout_s)

    def judged_blocking(self) -> list[Finding]:
        """Every hang or crash that any verdict of the run's whole history named."""
        judged = [e.event for e in self.state().timeline if isinstance(e.event, ev.FindingsJudged)]
        return [finding for verdict in judged for finding in verdict.findings if finding.blocks]

    def output(self, log: str = "") -> str:
        """What the processes printed."""
        logs = [self.work / log] if log else sorted(self.work.glob("*.log"))
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in logs
        )

    # ---- the end -------------------------------------------------------------------------

    def describe(self) -> str:
        """All that a person needs to see why a scenario failed."""
        lines = [self.output(), f"== steps {sorted(self.seen_steps)}"]
        try:
            state = self.state()
        except Exception as error:
            return "\n".join([*lines, f"== no state: {error!r}"])
        lines += ["== timeline"]
        lines += [
            f"{e.time_ns / 1e9:.3f} {e.process} {e.event}"[:400] for e in state.timeline[-120:]
        ]
        lines += ["== ranks", *(str(status) for status in rank_statuses(state))]
        lines += ["== findings now", *(str(finding) for finding in diagnose(state))]
        lines += ["== findings recorded", *(str(finding) for finding in state.recorded_findings)]
        for log in sorted(Path(self.folder.path).glob("observer*.log")):
            lines += [f"== {log.name}", log.read_text(errors="replace")[-4000:]]
        return "\n".join(lines)

    def close(self) -> None:
        """Ends every process of the job and removes its folders."""
        end_processes(self.root)
        for process in self.launched:
            process.wait(30)
        self._watch.close()
        os.close(self._steps)
        volatile = self.folder.volatile
        if volatile and volatile != self.folder.path:
            shutil.rmtree(os.path.dirname(volatile), ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def launch_ranks(
    script: str,
    world_size: int,
    *,
    ranks: Iterable[int] | None = None,
    without_distwatch: Iterable[int] = (),
    env: Mapping[str, str] | None = None,
    env_of: Mapping[int, Mapping[str, str]] | None = None,
    args: Sequence[str] = (),
    port: int | None = None,
    stdin_of: Mapping[int, int] | None = None,
) -> Iterator[Job]:
    """Starts `jobs/<script>.py` as plain processes with the launcher's variables.

    Args:
        ranks: those that are really started, as often as they are named; all by default.
        without_distwatch: those that run with DISTWATCH=0.
        env_of: variables of single ranks; an empty value takes one away.
        stdin_of: descriptors that single ranks read; the others read /dev/null.
    """
    skip_without_torch(JOBS / f"{script}.py")
    chosen = range(world_size) if ranks is None else list(ranks)
    dark = set(without_distwatch)
    with empty_job() as job:
        port = port or free_port()
        for place, rank in enumerate(chosen):
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_PORT": str(port),
                **({"DISTWATCH": "0"} if rank in dark else {}),
                **(env or {}),
                **(env_of or {}).get(rank, {}),
            }
            variables = {name: value for name, value in variables.items() if value}
            again = f"-{place}" if list(chosen).count(rank) > 1 else ""
            job.start(
                [sys.executable, str(JOBS / f"{script}.py"), *args],
                variables,
                f"rank{rank}{again}.log",
                (stdin_of or {}).get(rank, subprocess.DEVNULL),
            )
        yield job


@contextlib.contextmanager
def torchrun(
    script: str,
    nproc: int,
    *,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[Job]:
    """Starts `jobs/<script>.py` under a real torchrun, with more options of its own."""
    skip_without_torch(JOBS / f"{script}.py")
    with empty_job() as job:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1"]
        launcher += [f"--nproc-per-node={nproc}", f"--master-port={free_port()}"]
        launcher += options
        job.start([*launcher, str(JOBS / f"{script}.py"), *args], env or {}, "torchrun.log")
        yield job


@contextlib.contextmanager
def single_process(
    script: str, *, env: Mapping[str, str] | None = None, args: Sequence[str] = ()
) -> Iterator[Job]:
    """Starts `jobs/<script>.py` alone, without any launcher's variables."""
    skip_without_torch(JOBS / f"{script}.py")
    with empty_job() as job:
        job.start([sys.executable, str(JOBS / f"{script}.py"), *args], env or {}, "script.log")
        yield job


@contextlib.contextmanager
def empty_job() -> Iterator[Job]:
    """A job without processes: the test starts them itself. Whatever it started is ended."""
    job = Job()
    try:
        try:
            yield job
        except BaseException:
            print(job.describe())
            raise
    finally:
        job.close()


def free_port() -> int:
    """A port that nobody listens at, and that nobody else takes meanwhile.

    One out of the kernel's own range, from 32,768 on, or of Ray's, up to 19,999, may be gone before
    the job's rank 0 comes to listen there; so may one that a worker of pytest-xdist beside us chose.
    """
    choose = random.SystemRandom()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (32_768 - 20_000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = 20_000 + worker * share + choose.randrange(share)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def process_of(state: RunState, rank: int) -> Process | None:
    """The process of a rank, None where none was seen."""
    return next(
        (p for p in state.processes.values() if p.role == "rank" and p.global_rank == rank), None
    )


def _newest_ns(state: RunState) -> int:
    return max((host.now_ns for host in state.hosts.values()), default=0)
