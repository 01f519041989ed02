"""What ranks without distwatch wait in, by their stacks alone: no deadline was ever set for them."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.diagnosis.facts.activity import activity_of, arguments_read
from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.diagnosis.facts.peer_waits import PeerWait
from distwatch.diagnosis.facts.torch_frames import COLLECTIVE_FRAMES, torch_frame
from distwatch.state.model import Process

STILL_S = 4.0
"""A stack that is the same in two looks so far apart hangs: whoever attaches to such a job knows that it hangs."""
ASLEEP_S = 2.0
"""Who waits in backward for less may wait for threads that compute."""
CREATIONS = ("new_group", "split_group", "init_device_mesh")
CALLS = COLLECTIVE_FRAMES.union(CREATIONS)
WORK = "the wait for an asynchronous call"
BACKWARD = "backward"
_PEER = {"send": "dst", "recv": "src"}
_AUTOGRAD = ("/torch/autograd/graph.py", "/torch/autograd/__init__.py")
_IDLE_SHARE = 0.1
_AWAITS_THREADS = ("lock", "queue")
Kind = Literal["collective", "p2p", "creation", "backward", "work"]


class StackCall(msgspec.Struct, frozen=True, kw_only=True):
    """The call of torch.distributed that a rank's main thread waits in."""

    kind: Kind
    name: str
    """torch's name of the function; `backward` where autograd communicates."""
    arguments: dict[str, str] = {}
    """Those that were read; none where nobody looked, or the rank has moved since."""

    @property
    def peer(self) -> int | None:
        """The other side's rank in the world, of a send or recv in the default group."""
        text = self.arguments.get(_PEER.get(self.name, ""), "")
        return int(text) if text.isdigit() and self.in_world else None

    @property
    def tag(self) -> int:
        text = self.arguments.get("tag", "0")
        return int(text) if text.isdigit() else 0

    @property
    def root(self) -> str:
        """The rank from or to which a collective goes; '' where it has none."""
        if self.kind != "collective":
            return ""
        return self.arguments.get("src") or self.arguments.get("dst") or ""

    @property
    def in_world(self) -> bool:
        """Whether the call is known to be in the default group."""
        return self.arguments.get("group") == "default"

    def __str__(self) -> str:
        if self.peer is not None:
            way = "to" if self.name == "send" else "from"
            return f"{self.name} {way} rank {self.peer}{f', tag {self.tag}' if self.tag else ''}"
        if self.root:
            return f"{self.name} with {'src' if 'src' in self.arguments else 'dst'}={self.root}"
        return self.name


def is_seen_from_outside(job: Job) -> bool:
    """Whether no rank of this world has distwatch in it."""
    return bool(job.ranks) and not any(process.known_from_start for process in job.ranks.values())


def still_s(process: Process) -> float:
    """Between the looks at it, for how long its stack was the same; 0 where it is gone or nobody looked.

    Of a single look at a job that hangs (a file that somebody left), STILL_S.
    """
    return unchanged_s(process) if process.ended_ns is None else 0.0


def unchanged_s(process: Process) -> float:
    """As `still_s`; of a process that has ended: as it was when it was last looked at."""
    stack = process.outside.stack
    if stack is None:
        return 0.0
    if stack.unchanged_since_ns is None:
        return STILL_S
    return ((process.outside.stack_ns or 0) - stack.unchanged_since_ns) / 1e9


def settled_s(process: Process) -> float:
    """For how long it was in one call of the user's code, wherever inside that; else as `still_s`."""
    stack = process.outside.stack
    if stack is None or stack.settled_since_ns is None or process.ended_ns is not None:
        return still_s(process)
    return ((process.outside.stack_ns or 0) - stack.settled_since_ns) / 1e9


def waited_s(process: Process) -> float:
    """For how long its main thread has waited without being woken.

    A training loop is in the same collective whenever one looks, but its thread runs in between.
    """
    stack = process.outside.stack
    if stack is None or stack.asleep_since_ns is None:
        return still_s(process)
    return min(still_s(process), ((process.outside.stack_ns or 0) - stack.asleep_since_ns) / 1e9)


def is_known_asleep(process: Process) -> bool:
    """Whether the kernel says that its main thread has slept between the looks."""
    stack = process.outside.stack
    return stack is not None and stack.asleep_since_ns is not None and waited_s(process) >= STILL_S


def call_by_stack(job: Job, process: Process) -> StackCall | None:
    """The call that its main thread waits in; None where it is in none."""
    arguments = arguments_read(process)
    # What creates a group may call a barrier in it.
    if frame := torch_frame(process.main_frames, CREATIONS):
        return StackCall(kind="creation", name=frame.function, arguments=arguments)
    if name := job.in_collective_by_stack(process):
        kind: Kind = "p2p" if name in _PEER else "collective"
        return StackCall(kind=kind, name=name, arguments=arguments)
    if _idles_in_backward(process):
        return StackCall(kind="backward", name=BACKWARD)
    if _waits_for_work(job, process):
        return StackCall(kind="work", name=WORK)
    # A main thread that joins another one, or waits for what that brings, is where that one is.
    told = activity_of(job.state, process)
    others = calls_of_threads(process) if told is not None and told.kind in _AWAITS_THREADS else []
    return StackCall(kind="collective", name=others[0]) if others else None


def calls_of_threads(process: Process) -> list[str]:
    """The collectives that threads of it are in besides the main thread, which may be in one, too."""
    stack = process.outside.stack
    threads = stack.main_first(process.pid)[1:] if stack is not None else ()
    frames = (torch_frame(thread.frames, COLLECTIVE_FRAMES) for thread in threads)
    return [operation_name(frame.function) for frame in frames if frame is not None]


def peer_waits_by_stack(job: Job) -> dict[int, PeerWait]:
    """By global rank, the sends and recvs of the default group that ranks have waited in for long."""
    if not is_seen_from_outside(job):
        return {}
    waits = {r: wait for r, p in job.ranks.items() if (wait := _peer_wait(job, r, p))}
    return {r: w for r, w in waits.items() if not _matches(w, waits.get(w.peer_rank))}


def _matches(wait: PeerWait, other: PeerWait | None) -> bool:
    if other is None or other.peer_rank != wait.global_rank:
        return False
    return other.op != wait.op and other.tag == wait.tag


def _peer_wait(job: Job, rank: int, process: Process) -> PeerWait | None:
    call = call_by_stack(job, process)
    lasted_s = waited_s(process)
    if call is None or call.kind != "p2p" or call.peer is None or lasted_s < STILL_S:
        return None
    members = tuple(range(job.world or 0))
    if call.peer not in members or call.peer == rank:
        return None
    return PeerWait(
        global_rank=rank,
        peer_rank=call.peer,
        op=call.name,
        pg_name="0",
        pg_desc="default_pg",
        members=members,
        tag=call.tag,
        posted=0,
        answered=None,
        entered_ns=(process.outside.stack_ns or 0) - int(lasted_s * 1e9),
    )


def sleeps_with_gil(process: Process) -> bool:
    """Whether a thread of it holds the GIL while the process sleeps: no Python code releases it so."""
    sample, stack = process.outside.sample, process.outside.stack
    if sample is None or stack is None or sample.state != "S" or still_s(process) < STILL_S:
        return False
    main = stack.main_thread(process.pid)
    return main is not None and main.owns_gil


def _idles_in_backward(process: Process) -> bool:
    """DDP and FSDP communicate from autograd's own thread; the main thread sleeps meanwhile."""
    frames, sample = process.main_frames, process.outside.sample
    if not frames or not any(frame.file.endswith(_AUTOGRAD) for frame in frames[-3:]):
        return False
    flow = sample.flow if sample is not None else None
    if flow is None or not flow.over_s:
        return sample is not None and sample.syscall == "futex"
    # What it ran before it came to wait counts no more once it sleeps.
    if flow.asleep_since_ns and flow.at_ns - flow.asleep_since_ns >= ASLEEP_S * 1e9:
        return True
    return flow.cpu_s < _IDLE_SHARE * flow.over_s


def _waits_for_work(job: Job, process: Process) -> bool:
    """`work.wait()` is C++ below the user's line; every wait of Python's own has frames of its library."""
    frames, sample = process.main_frames, process.outside.sample
    if not frames or sample is None or sample.syscall != "futex":
        return False
    if torch_frame(frames, ("wait_tensor",)) is not None:
        return True
    text = job.state.sources.get((frames[-1].file, frames[-1].line), "")
    return ".wait(" in text and not frames[-1].native
