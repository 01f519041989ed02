"""What is seen of processes and hosts from outside: written by an observer."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.bounds import Finite
from distwatch.state.codec import share
from distwatch.state.event import Event
from distwatch.state.finding import Finding
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadProgress


class ObserverStarted(Event, frozen=True, kw_only=True):
    host: str
    pid: int
    distwatch_version: str = ""
    embedded: bool = False


class ObserverEnded(Event, frozen=True, kw_only=True):
    host: str
    reason: str


class LinkChanged(Event, frozen=True, kw_only=True):
    """An observer reaches another host's observer, or no longer does."""

    host: str
    """Of the observer that says so."""
    peer: str
    """The other host's name; of the root, where it is reached."""
    linked: bool
    why: str = ""
    silent_s: Finite = 0.0
    """For how long nothing had come from it by then."""
    ended: bool = False
    """It took its leave in order: there is nothing more to see of it."""


class Ticked(Event, frozen=True, kw_only=True):
    """The host's clock moved on: deadlines are judged against the newest time seen."""

    is_routine = True

    host: str


class ProcessSighted(Event, frozen=True, kw_only=True):
    """A process of the job was seen in the process table."""

    process: str
    host: str
    pid: int
    start_ticks: int
    ppid: int
    role: str
    """rank, launcher, dataloader, child, …"""
    identity: Identity
    command: tuple[str, ...] = ()
    instrumented: bool = False


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
    """The file or socket that the main thread's system call is about, where readable."""
    children: tuple[int, ...] = ()


class EndpointProbed(Event, frozen=True, kw_only=True):
    """What answers at the address where a job's ranks are to meet, as seen from `host`."""

    host: str
    endpoint: str
    outcome: Literal["store", "refused", "silent", "no_answer", "unresolved", "foreign", "error"]
    """A TCPStore answered · nobody listens · accepts and says nothing · packets vanish ·
    the name is unknown · something else than a TCPStore answered · any other failure."""
    detail: str = ""
    addresses: tuple[str, ...] = ()
    owner_pid: int | None = None
    """The listener, where it is on this host and ours to see."""
    owner_command: tuple[str, ...] = ()
    owner_process: str | None = None
    """The key of that process."""
    clients: int | None = None
    """How many torch clients have joined the store."""
    arrived: tuple[int, ...] = ()
    """Ranks that published their address in it."""


class GroupProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How far this process is in one process group (sequence numbers of torch, -1: none)."""

    pg_name: str
    enqueued: int = -1
    completed: int = -1
    changed_ns: int = 0
    """When either number last moved, as the agent's thread saw it (at most one beat late)."""
    p2p: int = -1

    @property
    def in_flight(self) -> bool:
        """Whether a collective was entered that is known not to be over."""
        # Without a recorder only entries are counted: -1 with several entered says nothing.
        known = self.completed >= 0 or self.enqueued == 1
        return known and self.enqueued > max(self.completed, 0)


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One call of a `ProcessGroup` method from Python, from the operations ring."""

    number: int
    op: str
    pg_name: str
    seq: int = -1
    """Expected collective sequence number in its group, -1 where it is not known."""
    site: int = 0
    entered_ns: int
    left_ns: int = 0
    """0: the call has not returned."""
    numel: int = -1
    dtype: str = ""
    peer: int = -1
    """The other side's rank within the group, -1 where there is none or any will do."""
    tag: int = 0
    p2p_seq: int = -1
    """For a send or recv: its 1-based index among those to or from that peer with that tag."""


class PeerProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many sends to, or recvs from, one peer this process has posted in one group."""

    pg_name: str
    op: Literal["send", "recv"]
    peer: int
    """The peer's rank within the group; -1: a recv from any."""
    tag: int = 0
    posted: int


class Pulse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The live page of one process, rewritten in place by the agent's thread."""

    beat: int = 0
    beat_ns: int = 0
    groups: tuple[GroupProgress, ...] = ()
    peers: tuple[PeerProgress, ...] = ()
    """The peers last sent to or received from; a bounded number."""
    loads: tuple[LoadProgress, ...] = ()
    """Model loads under way."""
    recorder: str = ""
    """Where the sequence numbers come from, or why there are none."""
    dropped: int = 0
    title: str = ""
    """What a Ray worker does, as its process title says it: `ray::Trainer.fit`."""


class PulseRead(Event, frozen=True, kw_only=True):
    is_routine = True

    process: str
    pulse: Pulse
    operations: tuple[Operation, ...] = ()


class ExitSeen(Event, frozen=True, kw_only=True):
    """The process is gone. Code and signal are None where nothing said them."""

    process: str
    exit_code: int | None = None
    signal: int | None = None
    how: str = ""
    oom_killed: str | None = None
    """The kernel's or cgroup's words for it, where one said so."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    function: str
    file: str
    line: int = 0
    native: bool = False


MAIN_THREAD = "MainThread"
"""What Python calls the thread that runs the script."""


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thread, outermost frame first."""

    name: str = ""
    os_thread_id: int | None = None
    active: bool = False
    owns_gil: bool = False
    frames: tuple[Frame, ...] = ()


class StackTaken(Event, frozen=True, kw_only=True):
    process: str
    threads: tuple[ThreadStack, ...] = ()
    source: str = "py-spy"
    error: str | None = None
    native: bool = False
    """Whether C frames are among them."""
    unchanged_since_ns: int | None = None
    """Since when this observer saw the main thread's frames just so."""
    settled_since_ns: int | None = None
    """Since when it saw the main thread inside the same call of the user's code: lines within
    that function, and what it calls, may differ."""
    settled_cpu_s: Finite | None = None
    """CPU seconds that the main thread has used since then."""

    def main_thread(self, pid: int) -> ThreadStack | None:
        """By its name, else by the process's pid, which is its number; None where none was seen."""
        main = (t for t in self.threads if t.name == MAIN_THREAD or t.os_thread_id == pid)
        return next(main, self.threads[0] if self.threads else None)

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


class Connection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A TCP connection whose data is not acknowledged, as the kernel's table shows it."""

    local: str
    """`address:port`"""
    peer: str
    state: str
    """The kernel's word: established, syn_sent, …"""
    unacknowledged_bytes: int = 0
    retransmits: int = 0
    """How often the oldest of it was sent again, or the connection attempt repeated."""


class ConnectionsSeen(Event, frozen=True, kw_only=True):
    """A process's connections to other addresses; only those that are stuck are listed."""

    process: str
    addresses: tuple[str, ...] = ()
    """Its own addresses, as they stand in its connections."""
    stuck: tuple[Connection, ...] = ()


class SourceLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    file: str
    line: int
    text: str


class SourcesRead(Event, frozen=True, kw_only=True):
    """Lines of source that a verdict is about, as they stood in the files when it was made."""

    is_routine = True

    host: str
    lines: tuple[SourceLine, ...] = ()


class ErrorFileRead(Event, frozen=True, kw_only=True):
    """What an ended process left in its TORCHELASTIC_ERROR_FILE."""

    process: str
    type_name: str
    message: str
    traceback: tuple[str, ...] = ()


class LockHolder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A process that a lock file belongs to."""

    pid: int
    """0: one that this host cannot see."""
    command: tuple[str, ...] = ()
    alive: bool = True


class LockLooked(Event, frozen=True, kw_only=True):
    """A lock file that a process waits for, as it stands on `host`."""

    host: str
    path: str
    exists: bool = True
    holders: tuple[LockHolder, ...] = ()
    """Who holds it: by the kernel's table, or by the lock file's own words."""
    says_host: str = ""
    """The host that the lock file's own words name."""
    age_s: Finite | None = None
    """Since it was last written."""
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


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    pid: int
    memory_bytes: int | None = None
    utilization: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One accelerator. None: not reported by its driver."""

    index: int
    uuid: str = ""
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: int | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()
    ecc_uncorrected: int | None = None
    xid: tuple[int, ...] = ()
    processes: tuple[DeviceUse, ...] = ()


class DevicesSampled(Event, frozen=True, kw_only=True):
    is_routine = True

    host: str
    devices: tuple[Device, ...] = ()
    not_observed: str | None = None


class NotObserved(Event, frozen=True, kw_only=True):
    """Something could not be seen, and why: missing is not zero."""

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
    """By an observer that sees its own host alone, while another one sees all."""
