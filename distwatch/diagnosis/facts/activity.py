"""What a process's main thread waits for or works at, by its frames and its system call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from distwatch.diagnosis.facts.identity_cache import cache_by_identity
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.state.events import Frame
from distwatch.state.finding import Evidence
from distwatch.state.model import Process, RunState
from distwatch.state.steps import BUILD_LOCK

Kind = Literal[
    "debugger", "prompt", "data", "lock", "file_lock", "queue", "child", "network", "file", "sleep",
    "compile", "checkpoint", "load", "device", "collective", "store", "compute", "native",
]  # fmt: skip
_DISTRIBUTED: tuple[Kind, ...] = ("collective", "store", "device")
"""A rank in one of these may wait for others; in any other activity it blocks them itself."""

_DEBUGGERS = (
    "/pdb.py",
    "/bdb.py",
    "/debugpy/",
    "pydevd",
    "/ipdb/",
    "/pudb/",
    "/IPython/terminal/debugger",
)
_C10D = "/torch/distributed/distributed_c10d.py"
_FILES: tuple[tuple[Kind, str, str], ...] = (
    # Meaning of a library's file anywhere on the stack, whatever is inside it; the first match counts.
    # A sampler or a collate function may call a collective: then the rank waits for others.
    ("collective", "torch.distributed", _C10D),
    ("data", "the data loader", "/torch/utils/data/ /torchdata/ /webdataset/ /litdata/ /ffcv/"),
    ("data", "the data loader", "/nvidia/dali/ /tensorflow/python/data/ /streaming/base/"),
    ("data", "the data loader", "/datasets/iterable_dataset /datasets/arrow_"),
    ("file_lock", "the build lock of another process (FileBaton)", "/torch/utils/file_baton.py"),
    # Not all of _dynamo and _inductor: compiled code runs through their frames, too.
    ("compile", "compilation", "/torch/_dynamo/convert_frame /torch/_dynamo/symbolic_convert"),
    ("compile", "compilation", "/torch/_inductor/graph.py /torch/_inductor/scheduler.py"),
    ("compile", "compilation", "/torch/_inductor/async_compile /triton/compiler/"),
    ("compile", "compilation", "/torch/_dynamo/__init__.py"),  # forgets what was compiled
    ("compile", "compilation", "/torch/utils/cpp_extension"),
    ("checkpoint", "a checkpoint", "/torch/distributed/checkpoint/ /torch/serialization.py"),
)
_INNERMOST: tuple[tuple[Kind, str, str, str], ...] = (
    # Kind, words, part of the file's path, functions (any where none is named): the meaning of library
    # frames inside the user's code; the outermost match counts.
    ("file_lock", "a file lock", "/filelock/", ""),
    ("file_lock", "a file lock", "/portalocker/", ""),
    ("file_lock", "a lock file of a build", "/torch/utils/file_baton.py", ""),
    ("child", "a child process", "/subprocess.py", "wait _wait communicate _communicate _try_wait"),
    ("child", "a child process to start", "/subprocess.py", "_execute_child"),
    ("child", "a child process", "/multiprocessing/popen_fork.py", ""),
    ("queue", "a queue", "/queue.py", "get put join"),
    ("queue", "a queue between processes", "/multiprocessing/queues.py", ""),
    ("queue", "a pipe to another process", "/multiprocessing/connection.py", ""),
    (
        "queue",
        "a pool of processes",
        "/multiprocessing/pool.py",
        "map starmap apply get wait next join",
    ),
    ("queue", "a future", "/concurrent/futures/_base.py", "result wait exception"),
    ("lock", "a thread to end", "/threading.py", "join _wait_for_tstate_lock _shutdown"),
    ("lock", "a lock or an event", "/threading.py", "wait wait_for acquire __enter__"),
    ("lock", "a lock between processes", "/multiprocessing/synchronize.py", ""),
    ("network", "an answer from the network", "/ssl.py", ""),
    ("network", "an answer from the network", "/socket.py", ""),
    ("network", "an answer from the network", "/http/client.py", ""),
    ("queue", "asynchronous work", "/asyncio/", ""),
    ("network", "sockets", "/selectors.py", ""),
    ("collective", "torch.distributed", "/torch/distributed/", ""),
    ("device", "the device", "/torch/cuda/", "synchronize"),
)
_NATIVE: tuple[tuple[Kind, str, str], ...] = (
    ("collective", "torch.distributed", "c10d:: gloo:: nccl"),
    ("device", "the device", "StreamSynchronize DeviceSynchronize EventSynchronize CtxSynchronize"),
    (
        "lock",
        "a lock",
        "PyThread_acquire_lock lock_PyThread_acquire_lock rlock_acquire _PyMutex_Lock",
    ),
)
_SLEEPS = frozenset("nanosleep clock_nanosleep pause rt_sigtimedwait".split())
_LOCK_FILES = frozenset("flock fcntl".split())
_READS = frozenset(
    "read pread64 readv preadv preadv2 open openat openat2 getdents64 copy_file_range".split()
)
_TALKS = frozenset(
    "recvfrom recvmsg sendto sendmsg connect accept accept4 poll ppoll select pselect6 epoll_wait "
    "epoll_pwait".split()
)
_PEER = re.compile(r"socket [^ ,]+→([^ ,)]+)")
_DNS_PORT = "53"
_LOCK_LINES = (".acquire(", "with lock", "lock:", "_lock:", ".wait(", ".join(")
_WORK_LINES = (".wait(", ".all_reduce", ".recv(", ".send(", "dist.")
LIVELOCK_CPU = 0.3
"""Share of a core: where there are more threads than cores, a loop does not get a whole core."""
LIVELOCK_S = 1.0


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What a main thread does. `text` completes "it waits for …" or "it is in …"."""

    kind: Kind
    text: str
    certain: bool = True

    @property
    def doing(self) -> str:
        """As the end of a sentence: `asleep`, `in the data loader`, `waiting for a lock`."""
        if self.kind == "sleep":
            return "asleep"
        inside = self.kind in ("data", "compile", "checkpoint", "debugger")
        return f"{'in' if inside else 'waiting for'} {self.text}"

    @property
    def waits_for_others(self) -> bool:
        """Whether it may be waiting for other ranks."""
        return self.kind in _DISTRIBUTED


def activity_of(state: RunState, process: Process) -> Activity | None:
    """What the main thread does, where its stack, its system call or its source show it.

    For a process that has ended: what it did when it was last looked at.
    """
    frames = process.main_frames
    if not frames:
        return by_syscall(process)
    if is_in_debugger(frames):
        return Activity(kind="debugger", text="a debugger")
    told = _told_by_files(frames)
    if told is None and reads_stdin(process):
        return Activity(kind="prompt", text="somebody to type on its stdin")
    if told := told or _told_by_calls(frames):
        kind, text = told
        return Activity(kind=kind, text=_with_subject(process, text, kind))
    return in_native_code(process) or by_syscall(process) or _by_source(state, process, frames)


@cache_by_identity
def _told_by_files(frames: tuple[Frame, ...]) -> tuple[Kind, str] | None:
    files = [frame.file for frame in frames if not frame.native]
    for kind, text, parts in _FILES:
        if any(part in file for file in files for part in parts.split()):
            return kind, text
    return None


@cache_by_identity
def _told_by_calls(frames: tuple[Frame, ...]) -> tuple[Kind, str] | None:
    for frame in _library_frames(frames):
        for kind, text, part, functions in _INNERMOST:
            # py-spy prefixes methods with their class.
            called = frame.function.rpartition(".")[2]
            if part in frame.file and (not functions or called in functions.split()):
                return kind, text
    return None


def any_thread_communicates(process: Process) -> bool:
    """Whether some Python thread of it was in a call of torch.distributed."""
    stack = process.outside.stack
    return any(_communicates(thread.frames) for thread in (stack.threads if stack else ()))


@cache_by_identity
def _communicates(frames: tuple[Frame, ...]) -> bool:
    return any(frame.file.endswith(_C10D) for frame in frames)


@cache_by_identity
def is_in_debugger(frames: tuple[Frame, ...]) -> bool:
    """Whether the thread is in the debugger, and the debugger does not merely run the script."""
    for frame in reversed(frames):
        if any(part in frame.file for part in _DEBUGGERS):
            return True
        if not frame.native and not any(part in frame.file for part in ("/lib/python3", "<frozen")):
            return False
    return False


def spins(process: Process) -> float | None:
    """For how many seconds its main thread has been busy in one function; None where it is not."""
    stack = process.outside.stack
    if stack is None or stack.settled_since_ns is None or stack.settled_cpu_s is None:
        return None
    lasted = ((process.outside.stack_ns or 0) - stack.settled_since_ns) / 1e9
    busy = lasted >= LIVELOCK_S and stack.settled_cpu_s >= LIVELOCK_CPU * lasted
    return lasted if busy else None


def reads_stdin(process: Process) -> bool:
    """Whether it waits for a person's or a pipe's input on stdin."""
    sample = process.outside.sample
    if sample is None or not sample.blocked_on.startswith("stdin"):
        return False
    return sample.syscall in ("read", "readv", "poll", "select", "pselect6", "ppoll")


def kernel_text(process: Process) -> str:
    """`state S, wchan do_wait, in wait4 on pid 7`; '' where nobody looked."""
    sample = process.outside.sample
    if sample is None:
        return ""
    wchan = f", wchan {sample.wchan}" if sample.wchan else ""
    syscall = f", in {sample.syscall}" if sample.syscall else ""
    return f"state {sample.state}{wchan}{syscall}{on_what(process)}"


def on_what(process: Process) -> str:
    """` on /data/shard-7`: what its main thread's system call is about; '' where that is not known."""
    sample = process.outside.sample
    return f" on {sample.blocked_on}" if sample and sample.blocked_on else ""


def kernel_evidence(process: Process, rank: int, more: str = "") -> Iterable[Evidence]:
    """What the kernel says about a rank's main thread."""
    if text := kernel_text(process):
        yield Evidence("proc", f"process {text}{more}", rank)


def _library_frames(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """What the user's code called, that call first: a queue tells more than the lock inside it."""
    users = user_frame(frames)
    place = next((n for n, frame in enumerate(frames) if frame is users), -1)
    return frames[place + 1 :]


def _with_subject(process: Process, text: str, kind: Kind) -> str:
    sample = process.outside.sample
    blocked_on = sample.blocked_on if sample else ""
    if not blocked_on or kind in ("lock", "debugger", "compile"):
        return text
    return f"{text} ({blocked_on})"


def in_native_code(process: Process) -> Activity | None:
    """The meaning of its C frames, where they were taken and it has not moved since."""
    for frame in reversed(native_frames(process)):
        for kind, text, names in _NATIVE:
            if any(name in frame.function for name in names.split()):
                return Activity(kind=kind, text=text)
    return None


def _is_same_place(process: Process) -> bool:
    # Frames of a thread that has moved since say nothing about now.
    native = [f for f in _main_frames_with_c(process) if not f.native]
    python = [f for f in process.main_frames if not f.native]
    return [(f.file, f.function) for f in native] == [(f.file, f.function) for f in python]


def _main_frames_with_c(process: Process) -> tuple[Frame, ...]:
    return process.outside.native.main_frames(process.pid) if process.outside.native else ()


def native_frames(process: Process) -> tuple[Frame, ...]:
    """The C frames inside its innermost Python frame, the innermost last; () where none are known."""
    if not _is_same_place(process):
        return ()
    inner: list[Frame] = []
    for frame in reversed(_main_frames_with_c(process)):
        if not frame.native:
            break
        inner.append(frame)
    return tuple(reversed(inner))


def awaited_lock_file(process: Process) -> str:
    """The file whose lock its main thread waits for, in a system call or until a build is over; '' for none."""
    builds = [step for step in process.open_steps() if step.name == BUILD_LOCK]
    if builds and process.ended_ns is None:
        return builds[-1].label
    if lock := arguments_read(process).get("lock"):
        return lock
    sample = process.outside.sample
    if sample is None or process.ended_ns is not None or sample.syscall not in _LOCK_FILES:
        return ""
    return sample.blocked_on if sample.blocked_on.startswith("/") else ""


def socket_peer(process: Process) -> str:
    """The address of whoever its main thread waits for; '' where it listens, or waits for the job's store."""
    sample = process.outside.sample
    match = _PEER.search(sample.blocked_on) if sample is not None else None
    port = process.identity.master_port
    if match is None or (port and match[1].endswith(f":{port}")):
        return ""
    return match[1]


def peer_text(process: Process) -> str:
    """That address with the name of the host that the process asked for, as far as it is known."""
    peer = socket_peer(process)
    host, _, port = arguments_read(process).get("host", "").rpartition(":")
    address, _, own = peer.rpartition(":")
    if not peer or not host or host == address:
        return peer
    if own == _DNS_PORT:
        return f"the name server {peer}, which it asked for the address of {host}"
    return f"{host}:{port} ({peer})"


def arguments_read(process: Process) -> dict[str, str]:
    """What the call in which its main thread is was called with; empty where it has gone on since."""
    read = process.outside.arguments
    if read is None or read.frames != process.main_frames:
        return {}
    return read.arguments


def by_syscall(process: Process) -> Activity | None:
    """The meaning of the system call that it is in."""
    sample = process.outside.sample
    if sample is None:
        return None
    name, subject = sample.syscall, sample.blocked_on
    if name in _SLEEPS:
        return Activity(kind="sleep", text="time to pass")
    if name in _LOCK_FILES:
        return Activity(kind="file_lock", text=f"a lock on {subject or 'a file'}")
    if name in ("wait4", "waitid"):
        return Activity(kind="child", text=subject or "a child process")
    if "socket" in subject and name in _READS | _TALKS:
        return Activity(kind="network", text=subject)
    if name in _READS and "pipe:[" in subject:
        return Activity(kind="queue", text=f"a pipe from another process ({subject})")
    if name in _READS and subject:
        return Activity(kind="file", text=f"a read of {subject}")
    return None


def _by_source(state: RunState, process: Process, frames: tuple[Frame, ...]) -> Activity | None:
    """A lock is taken in C: only the source line that takes it shows the lock."""
    sample = process.outside.sample
    innermost = frames[-1]
    text = state.sources.get((innermost.file, innermost.line), "")
    waits = sample is not None and sample.syscall == "futex"
    if not waits or not text:
        return None
    if any(word in text for word in _WORK_LINES) and "lock" not in text.lower():
        return None
    if any(word in text.lower() for word in _LOCK_LINES):
        return Activity(kind="lock", text="a lock", certain=False)
    return None
