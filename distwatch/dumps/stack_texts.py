"""Stacks as text: py-spy's, faulthandler's and pystack's, and torch's debug server that wraps them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from distwatch.state.events import Frame, ThreadStack
from distwatch.state.observer_events import MAIN_THREAD

FRAMES_AT_MOST = 2000
THREADS_AT_MOST = 4096
_PROCESS = re.compile(r"Process (\d{1,10}): ?(.*)")
_PY_SPY_THREAD = re.compile(
    r"(?:\s*)Thread (0x[0-9A-Fa-f]+|\d+) \((active|idle)(\+gil)?\)(?:: \"(.*)\")?\s*$"
)
_PY_SPY_FRAME = re.compile(r"\s{4}(\S.*?) \(([^()]*?)(?::(\d{1,9}))?\)\s*$")
_FAULT_THREAD = re.compile(
    r"(Current thread|Thread) 0x[0-9a-fA-F]+ (?:\[(.*?)\] )?\(most recent call first\):"
)
_FAULT_FRAME = re.compile(r'\s+File "([^"]*)", line (\d{1,9}|\?\?\?) in (.+)')
_FAULT_FATAL = re.compile(r"Fatal Python error: (.+)")
_PYSTACK_THREAD = re.compile(
    r"Traceback for thread (\d+)(?: \((.*?)\))? \[(.*?)\] \(most recent call last\):"
)
_PYSTACK_FRAME = re.compile(r'\s+\((Python|C)\) File "([^"]*)", line (\d{1,9}), in (.+)')
_SECTION = re.compile(r"^=== Rank (\d{1,6}): .*? ===\s*$", re.M)
KINDS = {
    "py-spy": re.compile(r"^(?:Process \d+: |\s*Thread \S+ \((?:active|idle))", re.M),
    "faulthandler": re.compile(
        r"^(?:Current thread|Thread) 0x[0-9a-fA-F]+ .*\(most recent call first\):", re.M
    ),
    "pystack": re.compile(r"^Traceback for thread \d+ ", re.M),
}


class ProcessStacks(msgspec.Struct, kw_only=True):
    """The stacks of one process in a text."""

    pid: int = 0
    command: str = ""
    global_rank: int | None = None
    """Where the text itself says it."""
    threads: list[ThreadStack] = []
    source: str = ""
    fatal: str = ""
    """faulthandler's word for what ended the process."""


def is_stack_text(text: str) -> bool:
    """Whether some tool's stacks are in it."""
    return any(pattern.search(text) for pattern in KINDS.values())


def read_stacks(text: str) -> list[ProcessStacks]:
    """All processes whose stacks the text holds, in its order; those without any thread are left out."""
    sections = list(_SECTION.finditer(text))
    if not sections:
        return [one for one in _processes(text) if one.threads]
    found: list[ProcessStacks] = []
    for begin, end in zip(sections, [*sections[1:], None], strict=True):
        for process in _processes(text[begin.end() : end.start() if end else len(text)]):
            process.global_rank = int(begin[1])
            found.append(process)
    return [one for one in found if one.threads]


class _Text(msgspec.Struct, kw_only=True):
    """What was read so far."""

    processes: list[ProcessStacks] = []
    thread: ThreadStack | None = None
    frames: list[Frame] = []
    innermost_first: bool = True

    def begin_process(self, process: ProcessStacks) -> None:
        self.end_thread()
        self.processes.append(process)

    def begin_thread(self, thread: ThreadStack, source: str, innermost_first: bool) -> None:
        self.end_thread()
        if not self.processes:
            self.processes.append(ProcessStacks())
        self.processes[-1].source = source
        self.thread, self.innermost_first = thread, innermost_first

    def end_thread(self) -> None:
        if self.thread is not None and len(self.processes[-1].threads) < THREADS_AT_MOST:
            frames = tuple(reversed(self.frames) if self.innermost_first else self.frames)
            self.processes[-1].threads.append(
                msgspec.structs.replace(self.thread, frames=frames[-FRAMES_AT_MOST:])
            )
        self.thread, self.frames = None, []


def _processes(text: str) -> list[ProcessStacks]:
    read = _Text()
    for line in text.splitlines():
        if process := _PROCESS.match(line):
            read.begin_process(ProcessStacks(pid=int(process[1]), command=process[2].strip()))
        elif fatal := _FAULT_FATAL.match(line):
            read.begin_process(ProcessStacks(fatal=fatal[1].strip()))
        elif line.startswith("Timeout (") and line.rstrip().endswith("!"):
            # faulthandler writes again after each interval; the newest dump counts.
            read.begin_process(ProcessStacks())
        elif not _begin_thread(read, line) and len(read.frames) < FRAMES_AT_MOST:
            read.frames += _frame(line)
    read.end_thread()
    return [_with_main(one) for one in _newest(read.processes)]


def _begin_thread(read: _Text, line: str) -> bool:
    if spy := _PY_SPY_THREAD.match(line):
        thread = ThreadStack(
            name=spy[4] or "",
            os_thread_id=int(spy[1]) if spy[1].isdigit() else None,
            active=spy[2] == "active",
            owns_gil=bool(spy[3]),
        )
        read.begin_thread(thread, "py-spy", True)
    elif fault := _FAULT_THREAD.match(line):
        read.begin_thread(ThreadStack(name=fault[2] or ""), "faulthandler", True)
    elif stack := _PYSTACK_THREAD.match(line):
        has_gil = "Has the GIL" in stack[3]
        name = stack[2] or ""
        read.begin_thread(
            ThreadStack(name=name, os_thread_id=int(stack[1]), owns_gil=has_gil), "pystack", False
        )
    else:
        return False
    return True


def _frame(line: str) -> Iterator[Frame]:
    if spy := _PY_SPY_FRAME.match(line):
        native = spy[3] is None and ".so" in spy[2]
        yield Frame(function=spy[1], file=spy[2], line=int(spy[3] or 0), native=native)
    elif fault := _FAULT_FRAME.match(line):
        number = int(fault[2]) if fault[2].isdigit() else 0
        yield Frame(function=fault[3].strip(), file=fault[1], line=number)
    elif stack := _PYSTACK_FRAME.match(line):
        function = stack[4].strip()
        is_native = stack[1] == "C"
        if is_native:
            function = function.rpartition(" (")[0] or function
        yield Frame(function=function, file=stack[2], line=int(stack[3]), native=is_native)


def _newest(processes: list[ProcessStacks]) -> list[ProcessStacks]:
    """Dumps of one process that a watchdog repeated count once, the last of them."""
    unnamed = [one for one in processes if not one.pid and one.threads]
    last = unnamed[-1:] if unnamed else []
    return [one for one in processes if one.pid] + last


def _with_main(process: ProcessStacks) -> ProcessStacks:
    """Names the main thread where the tool does not: faulthandler writes it last."""
    threads = process.threads
    if not threads or any(thread.name == MAIN_THREAD for thread in threads):
        return process
    by_pid = [n for n, one in enumerate(threads) if process.pid and one.os_thread_id == process.pid]
    if by_pid:
        place = by_pid[0]
    elif process.source == "faulthandler":
        place = len(threads) - 1
    else:
        place = 0
    process.threads[place] = msgspec.structs.replace(threads[place], name=MAIN_THREAD)
    return process
