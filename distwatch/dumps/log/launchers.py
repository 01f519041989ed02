"""What launchers, schedulers and kernels write about the ends of processes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import msgspec

from distwatch.dumps.log.clock import UNSAID, LogClock
from distwatch.dumps.log.facts import Ended, Fact, Named, Who
from distwatch.dumps.log.lines import Line
from distwatch.state.bounds import MOST_RANKS

_ELASTIC = re.compile(r"failed \(exitcode: (-?\d{1,4})\) local_rank: (\d{1,6}) \(pid: (\d{1,10})\)")
_FIELD = re.compile(r"\s{2}(\w+)\s*: (.*)")
_ROOT_CAUSE = "Root Cause (first observed failure)"
_RANK = re.compile(r"(\d{1,6}) \(local_rank: (\d{1,6})\)")
_EXIT = re.compile(r"(-?\d{1,4}) \(pid: (\d{1,10})\)")
_RESTART = re.compile(r"Worker group FAILED.*will restart|will restart worker group")
_SRUN = re.compile(r"srun: error: (?P<host>[\w.-]+): tasks? (?P<tasks>[\d,-]+): (?P<how>.*)")
_MPIRUN = re.compile(
    r"noticed that process rank (\d{1,6}) with PID (\d{1,10}) on node (\S+) exited on signal (\d{1,3})"
)
_DEEPSPEED = re.compile(r"exits with return code = (-?\d{1,4})")
_SPAWNED = re.compile(r"process (\d{1,10}) spawned with command")
LOCAL_RANK = re.compile(r"--local[_-]rank(?:['\"]?,? ?['\"]?|=)(\d{1,5})\b")
_RAYLET = re.compile(
    r"worker died or was killed.*?(?:Worker IP address: (?P<ip>[\w.:-]+).*?)?Worker PID: (?P<pid>\d{1,10})"
)
_RAY_OOM = re.compile(r"(?i)worker.*?(?:killed|died).*?(?:memory pressure|out of memory|OOM)")
_SIGNAL_WORDS = {
    "aborted": 6,
    "segmentation fault": 11,
    "killed": 9,
    "terminated": 15,
    "bus error": 7,
    "floating point exception": 8,
    "illegal instruction": 4,
    "interrupt": 2,
}
_EXIT_CODE = re.compile(r"(?i)exited with exit code (\d{1,3})")


def elastic_failure(line: Line, time_ns: int, scope: str) -> Iterator[Fact]:
    """torchrun's line about the first process that failed on its node."""
    for found in _ELASTIC.finditer(line.text):
        labels = (f"local:{scope}:{found[2]}", f"pid:{found[3]}")
        who = Who(labels=labels, attempt=line.who.attempt)
        yield _ended(who, time_ns, int(found[1]), "torchrun saw it end")


def is_restart(text: str) -> bool:
    """Whether torchrun is about to start all workers again."""
    return bool(_RESTART.search(text))


class ElasticSummary:
    """torchrun's table of failures; each block of it is one process."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._fields: dict[str, str] = {}
        self._is_first = False

    def read(self, line: Line, time_ns: int) -> Iterator[Fact]:
        """A line of the table; the fact comes with the line that has the exit code."""
        found = _FIELD.match(line.text)
        if found is None:
            self._is_first = self._is_first or line.text.startswith(_ROOT_CAUSE)
            return
        self._fields[found[1]] = found[2].strip()
        if found[1] != "exitcode":
            return
        rank, status = _RANK.match(self._fields.get("rank", "")), _EXIT.match(found[2])
        host = self._fields.get("host", "")
        if self._is_first:  # it comes last in the table, and the log's own clock never goes back
            own_ns = LogClock(1970).time_ns(self._fields.get("time", ""))
            time_ns = own_ns if own_ns > UNSAID else time_ns
        self._fields, self._is_first = {}, False
        if rank and status:
            labels = (
                f"local:{self._scope}:{rank[2]}",
                f"pid:{status[2]}",
                f"pid:{status[2]}@{host}",
            )
            who = Who(labels=labels, global_rank=int(rank[1]), attempt=line.who.attempt)
            yield Named(who=who, time_ns=time_ns)
            yield _ended(who, time_ns, int(status[1]), f"torchrun on {host} saw it end")


def launcher_said(line: Line, time_ns: int, scope: str) -> Iterator[Fact]:
    """Slurm, MPI, Ray and DeepSpeed about one process or several."""
    text, attempt = line.text, line.who.attempt
    if srun := _SRUN.search(text):
        for task in _numbers(srun["tasks"]):
            who = Who(labels=(f"task:{task}",), attempt=attempt)
            yield from _srun_end(who, time_ns, srun["how"].strip(), srun["host"])
    if mpirun := _MPIRUN.search(text):
        labels = (f"task:{mpirun[1]}", f"pid:{mpirun[2]}", f"pid:{mpirun[2]}@{mpirun[3]}")
        how = "mpirun noticed it"
        yield Ended(
            who=Who(labels=labels, attempt=attempt), time_ns=time_ns, signal=int(mpirun[4]), how=how
        )
    if local := LOCAL_RANK.search(text):
        yield from _launched(
            text, time_ns, Who(labels=(f"local:{scope}:{local[1]}",), attempt=attempt)
        )
    if raylet := _RAYLET.search(text):
        where = f"@{raylet['ip']}" if raylet["ip"] else ""
        who = Who(labels=(f"pid:{raylet['pid']}{where}",), attempt=attempt)
        oom = text[:300] if _RAY_OOM.search(text) else ""
        yield Ended(who=who, time_ns=time_ns, how="the raylet reports its end", oom=oom)


def _launched(text: str, time_ns: int, who: Who) -> Iterator[Fact]:
    """DeepSpeed names a process by its command line, which has its local rank."""
    if spawned := _SPAWNED.search(text):
        labels = (*who.labels, f"pid:{spawned[1]}")
        yield Named(who=msgspec.structs.replace(who, labels=labels), time_ns=time_ns)
    if ended := _DEEPSPEED.search(text):
        yield _ended(who, time_ns, int(ended[1]), "DeepSpeed's launcher saw it end")


def _srun_end(who: Who, time_ns: int, how: str, host: str) -> Iterator[Fact]:
    words = how.lower()
    said = f"srun on {host}: {how}"
    if "out of memory" in words or "oom" in words:
        yield Ended(who=who, time_ns=time_ns, signal=9, oom=said, how=said)
        return
    if code := _EXIT_CODE.search(how):
        yield _ended(who, time_ns, int(code[1]), said)
        return
    number = next((n for word, n in _SIGNAL_WORDS.items() if words.startswith(word)), None)
    if number is not None:
        yield Ended(who=who, time_ns=time_ns, signal=number, how=said)


def _ended(who: Who, time_ns: int, code: int, how: str) -> Ended:
    """By Python's convention a signal is negative; a shell's is 128 and the signal."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number and number in {int(one) for one in signal.Signals}:
        return Ended(who=who, time_ns=time_ns, signal=number, how=how)
    return Ended(who=who, time_ns=time_ns, exit_code=code, how=how)


def _numbers(text: str) -> list[int]:
    """`0-2,5` as numbers; a range too long for a job is left out."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            low, high = int(first), int(last or first)
            if low <= high <= MOST_RANKS:
                found += range(low, high + 1)
    return found[:MOST_RANKS]
