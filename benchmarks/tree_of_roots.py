"""What a tree of roots costs its roots, in CPU-seconds and memory; from that, what 100,000 ranks would cost.

    python benchmarks/tree_of_roots.py [--racks 10] [--hosts 128] [--ranks 8]

The product's own leaf, digest, session, reducer and judge, without sockets: each batch is encoded, decoded
and taken as it is from a link, and only the time of the side that is measured counts. So the figures hold on a
busy machine, too. Measured are one rack's root, and the run's root above so many racks; the rest is arithmetic
and says so. `many_ranks.py --racks` is the same with processes, links and clocks.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator

import psutil
from scale.nodes import Node, spread
from scale.ranks import Training

from distwatch.observer.daemon import Observer
from distwatch.observer.link import messages as say
from distwatch.observer.link.backlog import Backlog
from distwatch.observer.link.channel import Channel
from distwatch.observer.link.digest import Digest
from distwatch.observer.link.leaf_session import LIVE_MOST_S, PROCESSES_A_SECOND, LeafSession
from distwatch.observer.link.mirror import Mirror
from distwatch.observer.link.turns import Turns
from distwatch.runfolder import RunFolder

AIM = 100_000
TICKS = 10
"""Half-second ticks of the steady state that one round of live values is taken from."""


class Company:
    """A root's leaves, without a root."""

    def __init__(self) -> None:
        self.leaves: dict[str, LeafSession] = {}
        self.turns = Turns()

    def note_host(self, host: str) -> None:
        """It comes once."""

    def regroup_soon(self) -> None:
        """The racks are given."""


class MeasuredRoot:
    """An observer that takes batches, and what that has cost it.

    Attributes:
        cpu_s, events, size: of what it has taken since `restart`.
    """

    def __init__(self, path: str) -> None:
        folder = RunFolder(path)
        folder.create()
        self.observer = Observer(folder)
        self._mirror = Mirror(folder)
        self._company = Company()
        self._sessions: dict[str, LeafSession] = {}
        self.restart()

    def restart(self) -> None:
        self.cpu_s, self.events, self.size = 0.0, 0, 0

    async def take(self, host: str, place: str, batches: list[say.Batch]) -> None:
        """`place`: of the root of a rack; '' for a leaf."""
        session = self._sessions.get(host) or self._session(host, place)
        for batch in batches:
            body = say.encode(batch)
            began = time.process_time()
            message = say.decode_from_leaf(body)
            assert isinstance(message, say.Batch)
            await session._take(message)
            self.cpu_s += time.process_time() - began
            self.events += len(batch.frames)
            self.size += len(body)

    def judge(self) -> float:
        """CPU-seconds of judging the whole once."""
        began = time.process_time()
        self.observer.judge.judge()
        return time.process_time() - began

    def _session(self, host: str, place: str) -> LeafSession:
        async def post(*_: bytes) -> None:
            pass

        hello = say.Hello(kind="leaf", run_id="tree", host=host, node="n", place=place)
        channel = Channel(post, lambda: None)
        made = LeafSession(self.observer, self._mirror, channel, hello, "", self._company)
        made._resumes = 1
        self._sessions[host] = self._company.leaves[host] = made
        return made


class Source:
    """What sends to a root: the backlog of some nodes, a rack's digest or one leaf's."""

    def __init__(self, root: MeasuredRoot, nodes: list[Node], folder: str, *, rack: bool) -> None:
        self._root = root
        self.nodes = nodes
        self._place = "127.0.0.1:1" if rack else ""
        self._backlog = Backlog(RunFolder(folder), nodes[0].host)
        self._backlog.digest = Digest() if rack else None
        self._backlog.resume(1, {})
        self._backlog.begin_history()
        for node in nodes:
            node.sinks.append(self._backlog.add_live)
            node.record_sinks.append(self._backlog.add_record)
            node.hears = lambda: True  # type: ignore[method-assign]

    async def send(self, *, live: bool = True) -> None:
        operations = 1 if self._place else 8
        batches = self._backlog.take_live_batch(live=live, operations=operations, sparing=True)
        await self._root.take(self.nodes[0].host, self._place, batches)

    async def look(self) -> None:
        """As when the root asks for a look."""
        digest = self._backlog.digest or Digest()
        with digest.looking((), whole=False):
            for node in self.nodes:
                await node.look("suspected", ask=True)
                if not self._place:
                    await self.send()
        await self.send()


async def measure(root: MeasuredRoot, sources: list[Source], training: Training) -> Iterator[str]:
    """Joins, trains for a while, hangs; what each phase cost the root."""
    process, found = psutil.Process(), []
    before = process.memory_info().rss
    for source in sources:
        for node in source.nodes:
            await node.start_ranks()
        await source.send(live=False)
    found.append(_row("join", root))
    root.restart()
    for _ in range(TICKS):
        for source in sources:
            for node in source.nodes:
                await node._tick()
    for source in sources:
        await source.send()
    found.append(_row("one round of live values, and 5 s of records", root))
    found.append(f"| judging the whole, steady | {root.judge():.2f} CPU-s |")
    training.hang()
    training.hung_ns -= int(2 * training.deadline_s * 1e9)
    root.restart()
    for source in sources:
        await source.look()
    found.append(_row("burst: a look at all", root))
    found.append(f"| judging the whole, hung | {root.judge():.2f} CPU-s |")
    blamed = root.observer.judge.findings[0].culprit_ranks
    found.append(f"| verdict | {'right' if blamed == (training.missing,) else blamed} |")
    grown = (process.memory_info().rss - before) / (1 << 20)
    return iter([*found, f"| memory, that of the nodes' events with it | {grown:.0f} MiB |"])


def _row(name: str, root: MeasuredRoot) -> str:
    each_us = 1e6 * root.cpu_s / max(1, root.events)
    size = root.size / (1 << 20)
    return f"| {name} | {root.events} events, {size:.1f} MiB, {root.cpu_s:.2f} CPU-s ({each_us:.0f} µs each) |"


async def run(options: argparse.Namespace, *, tree: bool) -> None:
    hosts = options.hosts * (options.racks if tree else 1)
    ranks = hosts * options.ranks
    training = Training(ranks, ranks * 3 // 7, deadline_s=12.0)
    training.began_ns -= 600_000_000_000
    with tempfile.TemporaryDirectory(prefix="distwatch-tree-") as home:
        nodes = list(spread(home, hosts, ranks, training))
        size = options.hosts if tree else 1
        root = MeasuredRoot(f"{home}/root")
        sources = [
            Source(root, nodes[first : first + size], home, rack=tree)
            for first in range(0, hosts, size)
        ]
        what = f"the run's root above {options.racks} racks" if tree else "a rack's root"
        print(f"| {what}: {ranks} ranks on {hosts} hosts | |\n|---|---|")
        for line in await measure(root, sources, training):
            print(line, flush=True)
        if tree:
            print_aim(root, ranks)
        await root.observer.finish("measured")


def print_aim(root: MeasuredRoot, ranks: int) -> None:
    """What the same would cost for AIM ranks: arithmetic, in proportion to the ranks."""
    times = AIM / ranks
    every_s = min(LIVE_MOST_S, AIM / PROCESSES_A_SECOND)
    print(f"\nBy arithmetic, for {AIM} ranks: {times:.1f} times each figure of the run's root;")
    print(
        f"live values come every {every_s:.0f} s, so a round's CPU-s × {times / every_s:.2f} is its share of a core."
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--racks", type=int, default=10)
    options.add_argument("--hosts", type=int, default=128, help="of a rack")
    options.add_argument("--ranks", type=int, default=8, help="of a host")
    given = options.parse_args()
    asyncio.run(run(given, tree=False))
    print()
    asyncio.run(run(given, tree=True))


if __name__ == "__main__":
    main()
