"""Stacks of the job's processes: how each is taken, and how long it has been the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.user_frame import user_frame
from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks.tracking import Tracked
from distwatch.probes.process import main_thread_cpu_s
from distwatch.probes.stacks import take_stack
from distwatch.state import events as ev

AT_ONCE = 2
WORKERS_OF_ONE = 8
WORKERS_OF_ALL = 32
NATIVE_OF_ALL = 4
ASK_WITHIN_S = 1.0
_DATA = "/torch/utils/data/"


class StackLooks:
    """Takes stacks and records them."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._same: dict[str, tuple[object, int]] = {}
        self._settled: dict[str, tuple[object, int, float]] = {}
        self._native: dict[str, object] = {}

    async def take(self, tracked: Tracked, socket: str = "") -> ev.StackTaken | None:
        """Takes one process's stack from outside; from inside where the kernel forbids that.

        Args:
            socket: its agent's control socket; '' where it has none.
        """
        async with self._gate:
            taken = await take_stack(tracked.key, tracked.pid)
        if taken.error and socket:
            inside = await take_from_inside(tracked.key, socket)
            taken = inside if inside is not None else taken
        if tracked.ended:
            return None
        now, cpu = time.monotonic_ns(), main_thread_cpu_s(tracked.pid)
        frames = taken.main_frames(tracked.pid)
        since, cpu_before = self._settled_since(tracked.key, frames, now, cpu)
        taken = msgspec.structs.replace(
            taken,
            unchanged_since_ns=self._unchanged_since(tracked.key, frames, now),
            settled_since_ns=since,
            settled_cpu_s=None if cpu is None or since is None else max(0.0, cpu - cpu_before),
        )
        self._recording.record(taken)
        return taken

    async def take_of_workers(
        self, taken: Iterable[ev.StackTaken | None], living: list[Tracked]
    ) -> None:
        """Stacks of the data workers of those ranks whose main thread waits for them."""
        waiting = {t.process for t in taken if t is not None and _is_in_loader(t)}
        pids = {t.pid for t in living if t.key in waiting}
        counts: dict[int, int] = {}
        chosen: list[Tracked] = []
        for worker in living:
            if worker.role == "dataloader" and worker.ppid in pids:
                counts[worker.ppid] = counts.get(worker.ppid, 0) + 1
                if counts[worker.ppid] <= WORKERS_OF_ONE:
                    chosen.append(worker)
        await asyncio.gather(*(self.take(worker) for worker in chosen[:WORKERS_OF_ALL]))

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
            taken = await take_stack(tracked.key, tracked.pid, native=True)
            if taken.threads:
                self._recording.record(msgspec.structs.replace(taken, native=True), keep=True)
            else:
                self._recording.record(
                    ev.NotObserved(
                        host=self._recording.header.host,
                        what="native stack",
                        why=taken.error or "no threads were seen",
                        process=tracked.key,
                    )
                )

    def _stand(self, tracked: Tracked) -> object:
        return self._settled.get(tracked.key, (None, 0, 0.0))[0]

    def _unchanged_since(self, key: str, frames: tuple[ev.Frame, ...], now: int) -> int | None:
        if not frames:
            return None
        before, since = self._same.get(key, (None, 0))
        if before != frames:
            since = now
            self._same[key] = (frames, since)
        return since

    def _settled_since(
        self, key: str, frames: tuple[ev.Frame, ...], now: int, cpu: float | None
    ) -> tuple[int | None, float]:
        if not frames:
            return None, 0.0
        place = _place(frames)
        before, since, cpu_then = self._settled.get(key, (None, 0, 0.0))
        if before != place:
            since, cpu_then = now, cpu or 0.0
            self._settled[key] = (place, since, cpu_then)
        return since, cpu_then


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
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    try:
        writer.write(line.encode())
        await writer.drain()
        return (await reader.readline()).decode("utf-8", "replace")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _is_in_loader(taken: ev.StackTaken) -> bool:
    return any(_DATA in frame.file for thread in taken.threads for frame in thread.frames)


def _place(frames: tuple[ev.Frame, ...]) -> tuple[object, ...]:
    """The callers with their lines, and the innermost function of the user's code without a line."""
    users = user_frame(frames)
    end = next((n for n, frame in enumerate(frames) if frame is users), len(frames) - 1)
    inner = frames[end]
    return (*((f.file, f.function, f.line) for f in frames[:end]), (inner.file, inner.function))
