"""The process table of this node and the parts of jobs in it, each process read once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter

from distwatch.probes import procfs
from distwatch.state.identity import Identity, identify

_LAUNCHER_PROGRAMS = frozenset(
    "torchrun accelerate accelerate-launch deepspeed horovodrun mpirun mpiexec orterun prterun "
    "srun slurmstepd".split()
)
_LAUNCHER_MODULES = re.compile(
    r"torch\.distributed\.(run|launch|elastic\S*)|accelerate\.commands\.\S+|deepspeed\.launcher\.\S+"
)
_LAUNCHER_FILES = re.compile(
    r"(torch/distributed/(run|launch)|accelerate/commands/\w+|deepspeed/launcher/\w+)\.py$"
)
_PYTHON = re.compile(r"(python|pypy)[\d.]*\w*$")
_DEPTH = 64
_CLAIM = attrgetter("global_rank", "endpoint")


def read_environ(pid: int) -> dict[str, str] | None:
    """The environment that a process started with; None where it is gone or not readable."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            raw = file.readall() or b""
    except OSError:
        return None
    pairs = (item.decode("utf-8", "replace").partition("=") for item in raw.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True)
class Seen:
    """One process. `environ` is None where it is not readable."""

    pid: int
    ppid: int
    start_ticks: int
    argv: tuple[str, ...]
    environ: dict[str, str] | None
    identity: Identity
    program: str
    """The path of its executable; '' where it is not readable."""

    @property
    def is_python(self) -> bool:
        """Whether a Python interpreter runs in it, whatever title it has set."""
        if _PYTHON.match(os.path.basename(self.program)):
            return True
        # An application that embeds Python; its maps are long, so they are read only where it claims a rank.
        return self.identity.global_rank is not None and "libpython" in procfs.read_text(
            f"/proc/{self.pid}/maps"
        )

    @property
    def is_launcher(self) -> bool:
        """Whether its command line is a launcher's."""
        return is_launcher(self.argv)

    @property
    def is_distwatch(self) -> bool:
        """Whether it is distwatch itself: an observer inherits the environment of a rank."""
        names = [os.path.basename(argument) for argument in self.argv[:2]]
        _, module = _target(self.argv)
        return "distwatch" in names or module.partition(".")[0] == "distwatch"


def is_launcher(argv: tuple[str, ...]) -> bool:
    """torchrun, accelerate launch, deepspeed, mpirun, …, or python with one of their modules."""
    script, module = _target(argv)
    if os.path.basename(script) in _LAUNCHER_PROGRAMS or _LAUNCHER_FILES.search(script):
        return True
    return _LAUNCHER_MODULES.fullmatch(module) is not None


def title_of(argv: tuple[str, ...]) -> str:
    """What a command runs, in a word: `train.py`, `-m package`; the program where it is neither."""
    script, module = _target(argv)
    return f"-m {module}" if module else os.path.basename(script or (argv[0] if argv else ""))


def _target(argv: tuple[str, ...]) -> tuple[str, str]:
    """The program or the script of an interpreter, and the module of `python -m module`; else ''."""
    if not argv or not _PYTHON.match(os.path.basename(argv[0])):
        return (argv[0].removesuffix(":") if argv else ""), ""
    rest = iter(argv[1:])
    for argument in rest:
        if argument in ("-X", "-W"):
            next(rest, None)
        elif argument in ("-m", "-c"):
            return "", next(rest, "") if argument == "-m" else ""
        elif not argument.startswith("-"):
            return argument, ""
    return "", ""


class ProcessTable:
    """A look at this node's processes. Make a new one for each question: it never refreshes."""

    def __init__(self) -> None:
        self._seen: dict[int, Seen | None] = {}
        self._below: dict[int, list[int]] | None = None

    def get(self, pid: int) -> Seen | None:
        """A process; None where it does not exist."""
        if pid not in self._seen:
            self._seen[pid] = _see(pid)
        return self._seen[pid]

    def all(self) -> Iterator[Seen]:
        """Every process of this pid namespace."""
        return (seen for pid in procfs.all_pids() if (seen := self.get(pid)) is not None)

    def above(self, seen: Seen) -> Iterator[Seen]:
        """Its ancestors, the parent first."""
        for _ in range(_DEPTH):
            parent = self.get(seen.ppid) if seen.ppid > 0 else None
            if parent is None:
                return
            yield parent
            seen = parent

    def below(self, seen: Seen) -> Iterator[Seen]:
        """Its descendants, nearest first."""
        if self._below is None:
            self._below = {}
            for one in self.all():
                self._below.setdefault(one.ppid, []).append(one.pid)
        pending = [seen.pid]
        for pid in pending:
            pending += self._below.get(pid, ())
            found = self.get(pid) if pid != seen.pid else None
            if found is not None:
                yield found

    def rank_of(self, seen: Seen) -> Seen | None:
        """The rank that a process is or works for; None where it is neither."""
        line = list(takewhile(lambda one: not one.is_launcher, [seen, *self.above(seen)]))
        for place, one in enumerate(line):
            if _claims_rank(one):
                # A subprocess inherits the variables: the topmost interpreter is the rank.
                claims = [
                    other
                    for other in line[place:]
                    if _claims_rank(other) and _CLAIM(other.identity) == _CLAIM(one.identity)
                ]
                return claims[-1]
        return None

    def role_of(self, seen: Seen) -> str:
        """rank, launcher, dataloader, child, or other."""
        if seen.is_distwatch:
            return "other"
        if seen.is_launcher or self._launches(seen):
            return "launcher"
        rank = self.rank_of(seen)
        if rank is None:
            return "other"
        if rank.pid == seen.pid:
            return "rank"
        return "dataloader" if self._is_dataloader(seen) else "child"

    def _is_dataloader(self, seen: Seen) -> bool:
        # torch names its workers' threads; older versions show a forked copy of the parent, or a process
        # that multiprocessing spawned.
        if procfs.name_of(seen.pid).startswith("pt_data_worker"):
            return True
        if any("multiprocessing.spawn import spawn_main" in argument for argument in seen.argv):
            return True
        parent = self.get(seen.ppid)
        return parent is not None and bool(seen.argv) and parent.argv == seen.argv

    def _launches(self, seen: Seen) -> bool:
        """Whether it runs torchrun's agent under another name: its children show it."""
        if seen.environ is None or "TORCHELASTIC_RUN_ID" in seen.environ or not seen.is_python:
            return False
        children = [self.get(pid) for pid in procfs.children_of(seen.pid)]
        return any(c and c.environ and "TORCHELASTIC_RUN_ID" in c.environ for c in children)


def _claims_rank(seen: Seen) -> bool:
    if seen.identity.global_rank is None or seen.is_launcher or seen.is_distwatch:
        return False
    return seen.is_python


def _see(pid: int) -> Seen | None:
    fields = procfs.stat_fields(pid)
    if fields is None:
        return None
    environ = read_environ(pid)
    try:
        program = os.fsencode(os.readlink(f"/proc/{pid}/exe")).decode("utf-8", "replace")
    except OSError:
        program = ""
    return Seen(
        pid=pid,
        ppid=int(fields[1]),
        start_ticks=int(fields[19]),
        argv=procfs.argv_of(pid),
        environ=environ,
        identity=identify(environ or {}),
        program=program.removesuffix(" (deleted)"),
    )
