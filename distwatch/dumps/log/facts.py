"""What evidence says about the processes of a job, before it is known which rank each of them is."""

from __future__ import annotations

import msgspec

from distwatch.state.events import Frame, ThreadStack

FILE_LABELS = ("file:", "numbered:")
"""What stands for a whole file."""


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a line or a file is of, as far as it says so itself."""

    labels: tuple[str, ...] = ()
    """Names of the process that other evidence may use, too: `task:5`, `pod:bert-worker-2`, `pid:4711`."""
    global_rank: int | None = None
    attempt: int = 0
    """Which start of the job by its launcher it belongs to, from 0; -1: it is not said."""

    @property
    def is_known(self) -> bool:
        return self.global_rank is not None or bool(self.labels)


NOBODY = Who(attempt=-1)


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is said about a process."""

    who: Who
    time_ns: int = 0
    """Wall clock, UTC."""


class Named(Fact, frozen=True, kw_only=True):
    """The labels and the rank belong together, or a rank wrote something."""


class WorldSized(Fact, frozen=True, kw_only=True):
    """The job has that many ranks."""

    size: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A process group, as torch's log prefix names it."""

    name: str = "0"
    desc: str = "default_pg"

    @property
    def is_default(self) -> bool:
        return self.name == "0" or self.desc == "default_pg"


DEFAULT = Group()


class Progressed(Fact, frozen=True, kw_only=True):
    """How far a rank is in a group."""

    group: Group
    group_rank: int | None = None
    enqueued: int
    completed: int


class StuckIn(Fact, frozen=True, kw_only=True):
    """A rank is in a collective that does not end, as torch's watchdog or its wrapper says."""

    group: Group | None = None
    """None: the line does not say it."""
    group_rank: int | None = None
    seq: int
    op: str
    numel_in: int | None = None
    numel_out: int | None = None
    timeout_ms: int | None = None
    ran_ms: int = 0
    repeated: bool = False
    """Other ranks said the same and were left out of the log."""


class GilHeld(Fact, frozen=True, kw_only=True):
    """torch's heartbeat monitor could not get the GIL."""

    stuck_s: float = 0.0


class Desynced(Fact, frozen=True, kw_only=True):
    """torch's desync report: some ranks have not joined a collective that others are in."""

    absent: tuple[int, ...]
    joined: tuple[int, ...] = ()
    seq: int = -1


class Raised(Fact, frozen=True, kw_only=True):
    """An exception of a rank was printed."""

    type_name: str
    message: str
    traceback: tuple[str, ...] = ()
    file: str = ""
    line: int = 0
    function: str = ""
    frames: tuple[Frame, ...] = ()
    """All of them, outermost first."""
    uncaught: bool = False
    """torch's own hook, or an error file, says that it left the main thread."""


class Ended(Fact, frozen=True, kw_only=True):
    """A process ended; code and signal are None where nothing says them."""

    exit_code: int | None = None
    signal: int | None = None
    oom: str = ""
    how: str = ""


class KernelKilled(Fact, frozen=True, kw_only=True):
    """The kernel killed a process for memory; by its pid on the host."""

    pid: int
    command: str
    text: str


class LostPeer(Fact, frozen=True, kw_only=True):
    """A connection to another rank was closed by that side."""


class LinkFailed(Fact, frozen=True, kw_only=True):
    """A network port reports an error."""

    device: str
    text: str
    decides: bool = True
    """False: it may as well follow from the end of the other side."""


class DriverReported(Fact, frozen=True, kw_only=True):
    """An Xid of NVIDIA's driver."""

    bus: str
    xid: int
    pid: int | None = None
    text: str = ""


class Stacked(Fact, frozen=True, kw_only=True):
    """All threads of a process at one moment."""

    threads: tuple[ThreadStack, ...]
    pid: int = 0
    command: str = ""


class Wrote(Fact, frozen=True, kw_only=True):
    """The last line of a rank's own output."""

    text: str
