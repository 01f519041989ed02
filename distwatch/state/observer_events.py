"""Events about processes and hosts as seen from outside, written by an observer."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.bounds import Finite
from distwatch.state.codec import share
from distwatch.state.event import Event
from distwatch.state.finding import Finding
from distwatch.state.flow import Flow
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadProgress
from distwatch.state.splits import Splits


class ObserverStarted(Event, frozen=True, kw_only=True):
    host: str
    pid: int
    distwatch_version: str = ""
    embedded: bool = False


class ObserverEnded(Event, frozen=True, kw_only=True):
    host: str
    reason: str


class Ticked(Event, frozen=True, kw_only=True):
    """Time has passed on the host: deadlines are judged against the newest time seen."""

    is_routine = True

    host: str


class ProcessSighted(Event, frozen=True, kw_only=True):
    """A process of the job was seen in the process table."""

    process: str
    host: str
    pid: int
    start_ticks: int
    ppid: int
    role: str  # rank, launcher, dataloader, child, …
    identity: Identity
    command: tuple[str, ...] = ()
    instrumented: bool = False
    deadlines: dict[str, Finite] = {}  # seconds by kind of step, of its start record


class ProcessSampled(Event, frozen=True, kw_only=True):
    is_routine = True

    process: str
    state: str
    """The kernel's task state: R, S, D, T, Z, …"""
    wchan: str = ""
    syscall: str = ""
    cpu_s: Finite | None = None
    rss_bytes: int | None = None
    threads: int | None = None
    blocked_on: str = ""
    """The file or socket of the main thread's system call, where it is readable."""
    children: tuple[int, ...] = ()
    flow: Flow | None = None
    """None: nobody has waited for it for long, so nobody looked."""


class GroupProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """This process's progress in one process group (torch's sequence numbers; -1: none)."""

    pg_name: str
    enqueued: int = -1
    completed: int = -1
    changed_ns: int = 0
    """When either number last changed, as the agent's thread saw it (at most one beat late)."""
    p2p: int = -1
    started: int = -1
    """The newest whose kernel runs; only NCCL's recorder says it, and only where torch times its events."""

    @property
    def in_flight(self) -> bool:
        """Whether a collective was entered and is known not to be complete."""
        # Without a recorder only entries are counted, so -1 with several entered means nothing.
        known = self.completed >= 0 or self.enqueued == 1
        return known and self.enqueued > max(self.completed, 0)


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One call of a `ProcessGroup` method from Python, from the operations ring."""

    number: int
    op: str
    pg_name: str
    seq: int = -1
    """Expected collective sequence number in its group; -1 where it is unknown."""
    site: int = 0
    entered_ns: int
    left_ns: int = 0
    """0: the call has not returned."""
    numel: int = -1
    dtype: str = ""
    peer: int = -1
    """The other side's rank in the group, or the src or dst of a collective; -1 for none, or for any."""
    tag: int = 0
    p2p_seq: int = -1
    """For a send or recv: its 1-based index among those to or from that peer with that tag."""
    splits: Splits | None = None


class PeerProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The number of sends to, or recvs from, one peer that this process has posted in one group."""

    pg_name: str
    op: Literal["send", "recv"]
    peer: int
    """The peer's rank in the group; -1: a recv from any."""
    tag: int = 0
    posted: int


class TrainingStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a process is in its training."""

    step: int
    began_ns: int = 0
    """When the process was first at that step."""
    usual_s: Finite = 0.0
    """The median length of its last steps; 0: too few of them yet."""
    epoch: Finite | None = None


class Pulse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The live page of one process, rewritten in place by the agent's thread."""

    beat: int = 0
    beat_ns: int = 0
    groups: tuple[GroupProgress, ...] = ()
    peers: tuple[PeerProgress, ...] = ()
    """The most recently used peers; a bounded number."""
    loads: tuple[LoadProgress, ...] = ()
    """Model loads in progress."""
    recorder: str = ""
    """The source of the sequence numbers, or why there are none."""
    dropped: int = 0
    title: str = ""
    """A Ray worker's process title: `ray::Trainer.fit`."""
    training: TrainingStep | None = None


class PulseRead(Event, frozen=True, kw_only=True):
    is_routine = True

    process: str
    pulse: Pulse
    operations: tuple[Operation, ...] = ()


class ExitSeen(Event, frozen=True, kw_only=True):
    """The process is gone. Code and signal are None where they are unknown."""

    process: str
    exit_code: int | None = None
    signal: int | None = None
    how: str = ""
    oom_killed: str | None = None
    """The kernel's or cgroup's message about it, if there is one."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    function: str
    file: str
    line: int = 0
    native: bool = False


MAIN_THREAD = "MainThread"
"""Python's name for the thread that runs the script."""


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thread, the outermost frame first."""

    name: str = ""
    os_thread_id: int | None = None
    active: bool = False
    owns_gil: bool = False
    frames: tuple[Frame, ...] = ()
    waits_in: str = ""
    """Of another thread than the main one: `accept on socket listening on 0.0.0.0:8000`."""


class StackTaken(Event, frozen=True, kw_only=True):
    process: str
    threads: tuple[ThreadStack, ...] = ()
    source: str = "py-spy"
    error: str | None = None
    native: bool = False
    """Whether C frames are included."""
    unchanged_since_ns: int | None = None
    """Since when this observer has seen exactly these frames of the main thread."""
    settled_since_ns: int | None = None
    """Since when it has seen the main thread in the same call of the user's code; the line in that
    function, and what it calls, may differ."""
    settled_cpu_s: Finite | None = None
    """Seconds for which the main thread has run, or has waited for a core, since then."""
    looks: int = 0
    """How many stacks of it were taken in the last seconds."""
    settled_places: int = 0
    """How many different chains of calls were seen lately; before, of those below that function alone."""
    settled_lines: int = 0
    """How many different lines of libraries below that function were seen lately."""
    settled_looks: int = 0
    """How many looks have lately seen it in that function."""
    settled_returns: int = 0
    """How many looks have lately seen it in a caller of that function instead: who polls returns to its loop."""
    asleep_since_ns: int | None = None
    """Since when the main thread has not run at all, as far as looks show; None: that is not known."""

    def main_thread(self, pid: int) -> ThreadStack | None:
        """The thread of that name, else the one whose number is the pid; None without threads."""
        for thread in self.threads:
            if thread.name == MAIN_THREAD or thread.os_thread_id == pid:
                return thread
        return self.threads[0] if self.threads else None

    def main_first(self, pid: int) -> tuple[ThreadStack, ...]:
        """All threads, the main thread before the others."""
        main = self.main_thread(pid)
        return (main, *(t for t in self.threads if t is not main)) if main else ()

    def main_frames(self, pid: int) -> tuple[Frame, ...]:
        """The main thread's, outermost first."""
        main = self.main_thread(pid)
        return main.frames if main else ()

    def from_wire(self) -> Event:
        for thread in self.threads:
            msgspec.structs.force_setattr(thread, "frames", share(thread.frames))
        return self


class ArgumentsRead(Event, frozen=True, kw_only=True):
    """Of the call in which a main thread waits: ranks, tags and groups, the host and port, or a build's lock."""

    process: str
    frames: tuple[Frame, ...] = ()
    """The main thread's, outermost first, when they were read."""
    arguments: dict[str, str] = {}
    """By torch's own names; `group` is `default` or `given`, `host` a name and a port, `lock` a path."""

    def from_wire(self) -> Event:
        msgspec.structs.force_setattr(self, "frames", share(self.frames))
        return self


class Connection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A TCP connection, from the kernel's table."""

    local: str
    """`address:port`"""
    peer: str
    state: str
    """The kernel's word: established, syn_sent, …"""
    unacknowledged_bytes: int = 0
    retransmits: int = 0
    """How often the oldest data was sent again, or the connection attempt was repeated."""
    unread_bytes: int = 0
    """What has arrived and was not read yet."""


class OutputSeen(Event, frozen=True, kw_only=True):
    """The last line that a process wrote to its log."""

    is_routine = True

    process: str
    text: str


class ConnectionsSeen(Event, frozen=True, kw_only=True):
    """A process's connections; of a job that distwatch runs in, only those to other addresses that are stuck."""

    process: str
    addresses: tuple[str, ...] = ()
    """Its own addresses in connections to others."""
    stuck: tuple[Connection, ...] = ()
    held: tuple[Connection, ...] = ()
    """All of them, within its host, too; where nobody asked for them, none."""
    unlisted: int = 0
    """How many more it holds."""


class SourceLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    file: str
    line: int
    text: str


class SourcesRead(Event, frozen=True, kw_only=True):
    """The source lines that a verdict refers to, as they were at that time."""

    is_routine = True

    host: str
    lines: tuple[SourceLine, ...] = ()


class SourceFileRead(Event, frozen=True, kw_only=True):
    """A source file of the job's, as its processes loaded it; secrets are redacted line by line."""

    is_routine = True

    host: str
    file: str
    text: str = ""
    not_read: str = ""
    """Why the text is missing: `changed since it was loaded`, …"""


class ErrorFileRead(Event, frozen=True, kw_only=True):
    """The exception of an ended process, from its TORCHELASTIC_ERROR_FILE or the end of its log."""

    process: str
    type_name: str
    message: str
    traceback: tuple[str, ...] = ()


class LockHolder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A process that holds a lock file."""

    pid: int
    """0: a process that this host cannot see."""
    command: tuple[str, ...] = ()
    alive: bool = True


class LockLooked(Event, frozen=True, kw_only=True):
    """A lock file that a process waits for, as seen on `host`."""

    host: str
    path: str
    exists: bool = True
    holders: tuple[LockHolder, ...] = ()
    """Its holders, from the kernel's table or from the lock file's content."""
    says_host: str = ""
    """The host named in the lock file."""
    age_s: Finite | None = None
    """Seconds since it was last written."""
    not_observed: str = ""


class HostSampled(Event, frozen=True, kw_only=True):
    is_routine = True

    host: str
    memory_total: int = 0
    memory_available: int = 0
    cgroup_limit: int | None = None
    cgroup_used: int | None = None
    oom_kills: int | None = None
    cpus: int | None = None
    load: Finite | None = None


class NotObserved(Event, frozen=True, kw_only=True):
    """Something could not be observed, with the reason: missing is not zero."""

    host: str
    what: str
    why: str
    process: str | None = None


class FindingsJudged(Event, frozen=True, kw_only=True):
    """The verdict changed. Kept for the record; viewers derive their own."""

    host: str
    findings: tuple[Finding, ...] = ()
    incident: int | None = None
    of_one_host: bool = False
    """Whether the observer sees only its own host, while another one sees all hosts."""
