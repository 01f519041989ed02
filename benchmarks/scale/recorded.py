"""A recorded run of very many ranks, as a root leaves it on disk: without links, and without waiting."""

from __future__ import annotations

import asyncio
import time

from distwatch.observer.link.mirror import Mirror
from distwatch.runfolder import RunFolder
from distwatch.state.frames import FileHeader, Record
from scale.nodes import Node, spread
from scale.ranks import Training

TICKS = 6


def record_run(folder: RunFolder, ranks: int, nodes: int, *, hung: bool) -> None:
    """Writes the journals of a job that trains, or of one that hangs past its deadline."""
    folder.create()
    training = Training(ranks, ranks * 3 // 7, deadline_s=12.0)
    training.began_ns -= 600_000_000_000
    if hung:
        training.hung_ns = time.monotonic_ns() - 30_000_000_000
    mirror = Mirror(folder)
    for node in spread(folder.path, nodes, ranks, training):
        kept: dict[str, tuple[FileHeader, list[Record]]] = {}

        def keep(header: FileHeader, record: Record, kept=kept) -> None:  # type: ignore[no-untyped-def]
            kept.setdefault(header.stream, (header, []))[1].append(record)

        node.record_sinks.append(keep)
        node.hears = lambda: True  # type: ignore[method-assign]
        asyncio.run(_live(node, hung))
        for header, records in kept.values():
            mirror.keep(header, records)
    mirror.close()


async def _live(node: Node, hung: bool) -> None:
    await node.start_ranks()
    for _ in range(TICKS):
        await node._tick()
        node._due.clear()
    if hung:
        await node.look("suspected", ask=True)
