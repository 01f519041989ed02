"""What a live viewer of very many ranks costs: bytes, and CPU seconds of the observer and of the viewer.

    python benchmarks/live_viewer.py [--ranks 10000] [--nodes 1250] [--folder PLACE]

An observer holds the state of a recorded run (as `viewer_cost.py` makes it) and serves two viewers, one after
the other; then each rank tells a new value, and then a new stack and a new dump, as after a look at all ranks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import msgspec
from viewer_cost import NAME, REPOSITORY, record_run

from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import Entry
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader
from distwatch.state.model import Process

VIEWER = """
import asyncio, resource, sys, time
from distwatch.observer.targets import live
from distwatch.runfolder import RunFolder

taken = 0
async def counted(reader, read=live.read_frame):
    global taken
    body = await read(reader)
    taken += len(body)
    return body
live.read_frame = counted

async def main():
    run = live.LiveRun(RunFolder(sys.argv[1]))
    await run.open()
    while True:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(taken, time.process_time(), usage.ru_maxrss >> 10, flush=True)
        until = await asyncio.to_thread(sys.stdin.readline)
        if not until:
            return await run.close()
        while sum(run.state.streams.values()) < int(until):
            await run.wait(1)
            await run.poll()

asyncio.run(main())
"""


class Watched:
    """A viewer in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._taken, self._cpu_s = 0, 0.0

    @classmethod
    async def start(cls, folder: RunFolder) -> Watched:
        pipe = asyncio.subprocess.PIPE
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", VIEWER, folder.path, stdin=pipe, stdout=pipe, env=env
            )
        )

    async def said(self) -> str:
        """What it took since it was last asked."""
        assert self._process.stdout is not None
        taken, cpu_s, peak = (await self._process.stdout.readline()).split()
        since = int(taken) - self._taken, float(cpu_s) - self._cpu_s
        self._taken, self._cpu_s = int(taken), float(cpu_s)
        return f"{since[0] / 1e6:.1f} MB, viewer {since[1]:.2f} CPU-s, its memory {int(peak)} MiB at most"

    async def follow(self, observer: Observer) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sum(observer.state.streams.values())}\n".encode())
        return await self.said()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def values(process: Process, now_ns: int) -> Iterator[ev.Event]:
    if (pulse := process.outside.pulse) is not None:
        fresh = msgspec.structs.replace(pulse, beat=pulse.beat + 1, beat_ns=now_ns)
        last = process.outside.operations[-1:]
        yield ev.PulseRead(process=process.key, pulse=fresh, operations=last)


def evidence(process: Process, now_ns: int) -> Iterator[ev.Event]:
    if process.outside.stack is not None:
        yield process.outside.stack
    if process.collectives is not None:
        yield process.collectives


def tell(observer: Observer, said_of) -> None:  # type: ignore[no-untyped-def]
    """As leaves tell: with the bytes of each event."""
    now_ns = time.monotonic_ns()
    for process in list(observer.state.processes.values()):
        for event in said_of(process, now_ns):
            own = isinstance(event, ev.CollectivesDumped)
            stream = process.key if own else f"observer:{process.host}-900.1#0"
            header = FileHeader(
                stream=stream, host=process.host, pid=1, start_ticks=1, boot_id="", wall_offset_ns=0, salt=0
            )  # fmt: skip
            seq = observer.state.streams.get(stream, 0) + 1
            payload = encode_event(event)
            began = time.process_time()
            entry = Entry(header, seq, now_ns, event, payload)
            observer.fold(entry.header, entry.seq, entry.time_ns, entry.event, entry.payload)
            tell.cpu_s += time.process_time() - began  # type: ignore[attr-defined]


async def measure(folder: RunFolder) -> None:
    observer = Observer(folder, writable=False)
    server = ViewerServer(observer)
    await server.start()
    viewers: list[Watched] = []
    for name in ("first", "second"):
        began = time.process_time()
        viewers.append(await Watched.start(folder))
        said = await viewers[-1].said()
        print(f"{name} viewer's picture: observer {time.process_time() - began:.2f} CPU-s, {said}")
    for name, said_of in (("a value of each rank", values), ("a look at all", evidence)):
        tell.cpu_s = 0.0  # type: ignore[attr-defined]
        tell(observer, said_of)
        began = time.process_time()
        said = [await viewer.follow(observer) for viewer in viewers]
        spent_s = time.process_time() - began
        print(
            f"{name}: folded in {tell.cpu_s:.2f} CPU-s, then observer {spent_s:.2f} CPU-s for both"
        )  # type: ignore[attr-defined]
        print(*said, sep="\n")
    for viewer in viewers:
        await viewer.end()
    await server.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=10_000)
    options.add_argument("--nodes", type=int, default=1_250)
    options.add_argument("--folder", default="", help="where such a run is kept, or is to be kept")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="dw-bench-") as place:
        root = given.folder or f"{place}/root"
        if not os.path.isdir(f"{root}/{NAME}"):
            record_run(root, given.ranks, given.nodes)
        asyncio.run(measure(RunFolder(f"{root}/{NAME}")))


if __name__ == "__main__":
    main()
