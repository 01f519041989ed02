"""Stacks of the job's processes: how each is taken, and how long it has been the same."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from distwatch.diagnosis.facts.stack_calls import CALLS
from distwatch.diagnosis.facts.torch_frames import torch_frame
from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.observer.background import close_writer, in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.call_arguments import BATON, awaited_peer, host_by_file, take_arguments
from distwatch.probes.process import (
    call_in_words,
    main_thread_busy_s,
    main_thread_run_ns,
)
from distwatch.probes.stacks import take_stack
from distwatch.socket_path import within_limit
from distwatch.state import events as ev
from distwatch.state.observer_events import MAIN_THREAD

AT_ONCE = 2
WORKERS_OF_ONE = 8
WORKERS_OF_ALL = 32
NATIVE_OF_ALL = 4
BUSY_OF_ALL = 4
BUSY_AGAIN = 4
LOOKS_KEPT = 64
PLACES_OVER_S, RETURNS_OVER_S = 8.0, 30.0
TORN_AT_MOST = 3
THREADS_OF_ONE = 16
ASK_WITHIN_S = 1.0
STAYED_S = 2.0
"""A call in which a thread is for so long has arguments that are worth a look."""
_DATA = "/torch/utils/data/"
_TORCH_DISTRIBUTED = "/torch/distributed/"
_Chain = tuple[tuple[str, str], ...]
"""Files and functions, the outermost first."""
_Moment = tuple[int, float]
"""Monotonic ns, and seconds for which the main thread has been busy."""


class _Look(NamedTuple):
    """One stack of a main thread."""

    at_ns: int
    chain: _Chain
    users: _Chain
    """That chain down to the innermost function of the person's code."""
    lines: tuple[tuple[str, int], ...]
    """Of libraries, below that."""


class SeenPlaces:
    """What the latest looks have seen of one main thread."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=LOOKS_KEPT)

    def note(self, frames: tuple[ev.Frame, ...]) -> dict[str, int]:
        """Adds a look; what is told of its place."""
        end = _users_place(frames)
        chain = tuple((f.file, f.function) for f in frames)
        lines = tuple((f.file, f.line) for f in frames[end + 1 :])
        now = _Look(time.monotonic_ns(), chain, chain[: end + 1], lines)
        self._looks.append(now)
        recent, lately = self._within(PLACES_OVER_S), self._within(RETURNS_OVER_S)
        here = [one for one in lately if one.users == now.users]
        return {
            "looks": len(recent),
            "settled_places": len({one.chain for one in recent}),
            "settled_looks": len(here),
            "settled_lines": len({line for one in here for line in one.lines}),
            "settled_returns": sum(_is_above(one.chain, now.users) for one in lately),
        }

    def _within(self, seconds: float) -> list[_Look]:
        newest_ns = self._looks[-1].at_ns
        return [one for one in self._looks if newest_ns - one.at_ns <= seconds * 1e9]


def _is_above(chain: _Chain, users: _Chain) -> bool:
    """Whether it was in a caller of that place itself, in no call from there."""
    return len(chain) < len(users) and chain == users[: len(chain)]


class StackLooks:
    """Takes stacks and records them."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._same: dict[str, tuple[object, _Moment]] = {}
        self._settled: dict[str, tuple[object, _Moment]] = {}
        self._asleep: dict[str, tuple[object, _Moment]] = {}
        self._seen: dict[str, SeenPlaces] = {}
        self._native: dict[str, object] = {}
        self._argued: dict[str, tuple[ev.Frame, ...]] = {}
        self._outermost: dict[str, tuple[str, str]] = {}

    async def take(
        self, tracked: Tracked, socket: str = "", *, arguments: bool = False
    ) -> ev.StackTaken | None:
        """Takes one process's stack from outside; from inside where the kernel forbids that.

        Args:
            socket: its agent's control socket; '' where it has none.
            arguments: whether to read those of a call of torch.distributed, too.
        """
        taken = await self._take_whole(tracked)
        if taken.error and socket:
            inside = await take_from_inside(tracked.key, socket)
            taken = inside if inside is not None else taken
        if tracked.ended:
            return None
        taken = await _with_calls(taken, tracked.pid)
        busy_s, run_ns = main_thread_busy_s(tracked.pid), main_thread_run_ns(tracked.pid)
        now = (time.monotonic_ns(), busy_s or 0.0)
        if frames := taken.main_frames(tracked.pid):
            unchanged = _since(self._same, tracked.key, frames, now)
            settled = _since(self._settled, tracked.key, _place(frames), now)
            seen = self._seen.setdefault(tracked.key, SeenPlaces()).note(frames)
            taken = msgspec.structs.replace(
                taken,
                unchanged_since_ns=unchanged[0],
                settled_since_ns=settled[0],
                settled_cpu_s=None if busy_s is None else max(0.0, busy_s - settled[1]),
                **seen,
                asleep_since_ns=None
                if run_ns is None
                else _since(self._asleep, tracked.key, run_ns, now)[0],
            )
            # Before the stack: a verdict on that one must not be given without them.
            await self._take_arguments(tracked, taken, of_torch=arguments)
        self._recording.record(taken)
        return taken

    async def _take_whole(self, tracked: Tracked) -> ev.StackTaken:
        """A stack that reaches down to where the main thread began: one that runs on may be read torn."""
        async with self._gate:
            for _ in range(TORN_AT_MOST):
                taken = await take_stack(tracked.key, tracked.pid)
                frames = taken.main_frames(tracked.pid)
                if not frames:
                    break
                outermost = (frames[0].file, frames[0].function)
                whole = self._outermost.setdefault(tracked.key, outermost) == outermost
                if whole and not any(map(_is_torn, frames)):
                    break
            else:
                self._outermost[tracked.key] = outermost  # the first one was torn, not these
        return taken

    async def take_of_busy(
        self, taken: Iterable[ev.StackTaken | None], living: list[Tracked], sockets: dict[str, str]
    ) -> None:
        """More stacks, at once, of a few that compute: whether they do one thing over and over."""
        busy = {t.process for t in taken if t is not None and _is_busy(t)}
        await self.take_again([tracked for tracked in living if tracked.key in busy], sockets)

    async def take_again(self, busy: list[Tracked], sockets: dict[str, str]) -> None:
        """Some stacks of each of a few processes, one after the other."""
        for _ in range(BUSY_AGAIN):
            for tracked in busy[:BUSY_OF_ALL]:
                await self.take(tracked, sockets.get(tracked.key, ""))

    async def take_of_workers(
        self, taken: Iterable[ev.StackTaken | None], living: list[Tracked]
    ) -> None:
        """Stacks of the children of lone programs, and of data workers for which a rank's main thread waits."""
        programs = {t.pid for t in living if t.role == "other"}
        waiting = {t.process for t in taken if t is not None and _is_in_loader(t)}
        pids = {t.pid for t in living if t.key in waiting}
        counts: dict[int, int] = {}
        chosen: list[Tracked] = []
        for worker in living:
            in_loader = worker.role == "dataloader" and worker.ppid in pids
            if (
                in_loader
                or worker.below_program
                or (worker.role == "child" and worker.ppid in programs)
            ):
                counts[worker.ppid] = counts.get(worker.ppid, 0) + 1
                if counts[worker.ppid] <= WORKERS_OF_ONE:
                    chosen.append(worker)
        await asyncio.gather(*(self.take(worker) for worker in chosen[:WORKERS_OF_ALL]))

    async def _take_arguments(
        self, tracked: Tracked, taken: ev.StackTaken, *, of_torch: bool
    ) -> None:
        """The arguments of the call in which the main thread has stayed, once for each place."""
        frames = taken.main_frames(tracked.pid)
        stayed_ns = time.monotonic_ns() - (taken.unchanged_since_ns or 0)
        if self._argued.get(tracked.key) == frames or stayed_ns < STAYED_S * 1e9:
            return
        is_torchs = any(_TORCH_DISTRIBUTED in frame.file for frame in frames)
        if is_torchs and (not of_torch or torch_frame(frames, CALLS) is None):
            return
        try:
            peer = "" if is_torchs else await in_background(awaited_peer, tracked.pid)
            builds = any(frame.file.endswith(BATON) for frame in frames)
            if not (is_torchs or peer or builds):
                return
            self._argued[tracked.key] = frames
            read = await take_arguments(tracked.key, tracked.pid, peer=peer)
            if read is not None and peer and "host" not in read.arguments:
                named = await in_background(host_by_file, tracked.pid, peer)
                told = {**read.arguments, "host": named} if named else read.arguments
                read = msgspec.structs.replace(read, arguments=told)
        except asyncio.TimeoutError:
            return
        if read is not None:
            self._recording.record(read)

    def not_yet_native(self, keys: Iterable[str], living: list[Tracked]) -> list[Tracked]:
        """Those of the processes whose C frames were not yet taken at their current place."""
        wanted = set(keys)
        return [
            tracked
            for tracked in living
            if tracked.key in wanted and self._native.get(tracked.key, ...) != self._stand(tracked)
        ][:NATIVE_OF_ALL]

    async def take_native(self, chosen: Iterable[Tracked]) -> None:
        """Takes C frames of a few processes, once for each place in the code.

        py-spy pauses a process for some tenths of a second for that: only processes that block others
        and whose Python frames do not say why are worth it.
        """
        for tracked in chosen:
            self._native[tracked.key] = self._stand(tracked)
            tracked.paused = True
            try:
                taken = await take_stack(tracked.key, tracked.pid, native=True)
            finally:
                tracked.paused, tracked.woken = False, True
            if taken.threads:
                self._recording.record(msgspec.structs.replace(taken, native=True), keep=True)
            else:
                why = taken.error or "no threads were seen"
                self._recording.miss("native stack", why, tracked.key)

    def _stand(self, tracked: Tracked) -> object:
        return self._settled[tracked.key][0] if tracked.key in self._settled else None


async def _with_calls(taken: ev.StackTaken, pid: int) -> ev.StackTaken:
    """The same stack with what its other Python threads wait in."""
    main = taken.main_thread(pid)
    others = [t for t in taken.threads if t is not main and t.os_thread_id and not t.active]
    tasks = [thread.os_thread_id or 0 for thread in others[:THREADS_OF_ONE]]
    if not tasks:
        return taken
    try:
        said = await in_background(_calls_of, pid, tasks)
    except asyncio.TimeoutError:
        return taken
    threads = tuple(
        msgspec.structs.replace(thread, waits_in=said.get(thread.os_thread_id or 0, ""))
        for thread in taken.threads
    )
    return msgspec.structs.replace(taken, threads=threads)


def _calls_of(pid: int, tasks: list[int]) -> dict[int, str]:
    return {task: call_in_words(pid, task) for task in tasks}


async def take_from_inside(key: str, socket: str) -> ev.StackTaken | None:
    """Python stacks as the process's own agent sees them; None where it does not answer.

    The agent needs the GIL: it cannot answer while another thread holds it.
    """
    if not os.path.exists(socket):
        return None
    try:
        answer = await asyncio.wait_for(ask(socket, "stacks\n"), ASK_WITHIN_S)
        threads = msgspec.json.decode(answer, type=tuple[ev.ThreadStack, ...])
    except (OSError, ValueError, asyncio.TimeoutError, msgspec.DecodeError):
        return None
    return ev.StackTaken(process=key, threads=threads, source="agent") if threads else None


async def ask(path: str, line: str) -> str:
    """Sends one line to an agent's control socket, and returns the line that it answers."""
    with within_limit(path) as short:
        reader, writer = await asyncio.open_unix_connection(short, limit=1 << 20)
    try:
        writer.write(line.encode())
        await writer.drain()
        return (await reader.readline()).decode("utf-8", "replace")
    finally:
        await close_writer(writer)


def _since(
    held: dict[str, tuple[object, _Moment]], key: str, place: object, now: _Moment
) -> _Moment:
    """Since when a process has been at this place; `held` remembers it."""
    if key not in held or held[key][0] != place:
        held[key] = (place, now)
    return held[key][1]


def _is_in_loader(taken: ev.StackTaken) -> bool:
    return any(_DATA in frame.file for thread in taken.threads for frame in thread.frames)


def _is_torn(frame: ev.Frame) -> bool:
    """Whether it was read while it changed: no line, and some other text where a file's name should be."""
    return not frame.native and frame.line <= 0 and not frame.file.startswith(("/", "<"))


def _is_busy(taken: ev.StackTaken) -> bool:
    return any(thread.active for thread in taken.threads if thread.name == MAIN_THREAD)


def _place(frames: tuple[ev.Frame, ...]) -> tuple[object, ...]:
    """The callers with their lines, and the innermost function of the user's code without a line."""
    end = _users_place(frames)
    inner = frames[end]
    return (*((f.file, f.function, f.line) for f in frames[:end]), (inner.file, inner.function))


def _users_place(frames: tuple[ev.Frame, ...]) -> int:
    users = user_frame(frames)
    return next((n for n, frame in enumerate(frames) if frame is users), len(frames) - 1)
