"""One run of very many ranks, merged by one root observer: how far behind it is, and what it costs.

    python benchmarks/many_ranks.py [--ranks 1000] [--nodes 128] [--racks 10] [--seconds 30] [--keep]

The root is the product's own observer process. The nodes are real leaves over real connections
(127.0.0.1), all in this process; their ranks exist only as the events of real ones (`scale/ranks.py`).
Three phases: all nodes join at once; the ranks train; one rank enters no collective any more, all
others wait in it, and every node sends all its stacks at one moment. A viewer looks on throughout.
With --racks the nodes send to that many roots of racks, which are in this process, too, and pass on their
digests; `--ranks 100000 --nodes 12500 --racks 98` is the cluster's root of a tree of 100,000 ranks.
On a machine of few cores the nodes, the root and the viewer compete for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import zmq
import zmq.asyncio
from scale.nodes import TICK_S, spread
from scale.racks import grouped
from scale.ranks import Training
from scale.watched_root import BUCKET_NS, Line
from scale.watched_viewer import View

from distwatch.observer.link.channel import Channel
from distwatch.observer.link.mirror import raise_file_limit
from distwatch.observer.link.racks import RACK_HOSTS, TREE_FROM
from distwatch.observer.link.root_address import RootAddress
from distwatch.runfolder import RunFolder

HERE = os.path.dirname(os.path.abspath(__file__))
JOINED_WITHIN_S = 240.0
JUDGED_WITHIN_S = 120.0
SEEN_WITHIN_S = 40.0
AFTER_S = 5.0
SETTLE_S = 5.0
SOCKETS_OF_A_LINK = 3
"""ZeroMQ's, on the leaf's side: the connection's own, and both ends of its monitor."""
"""After joining, before the steady state is measured."""


class Job:
    """The processes of one measurement, and what they wrote down."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.home = tempfile.mkdtemp(prefix="distwatch-scale-")
        name = f"scale-{os.getpid()}"
        self.folder = RunFolder(f"{self.home}/root/{name}")
        self.folder.create()
        empty = RunFolder(f"{self.home}/nodes/{name}")
        empty.create()
        self.token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.place = RootAddress("127.0.0.1", free.getsockname()[1])
        self.training = Training(options.ranks, options.ranks * 3 // 7, options.deadline)
        self.nodes = list(spread(empty.path, options.nodes, options.ranks, self.training))
        if options.racks is None:
            options.racks = -(-options.nodes // RACK_HOSTS) if options.nodes >= TREE_FROM else 0
        self.racks = list(grouped(self.nodes, options.racks)) if options.racks else []
        self.sent = 0
        self.children: list[subprocess.Popen[bytes]] = []
        self._count_bytes()

    def start(self, part: str) -> subprocess.Popen[bytes]:
        environ = {
            **os.environ,
            "PYTHONPATH": HERE,
            "DISTWATCH_OBSERVER": f"127.0.0.1:{self.place.port}",
            "DISTWATCH_TOKEN": self.token,
        }
        command = [sys.executable, "-m", f"scale.{part}", self.folder.path, self.measures(part)]
        # As the product starts it: the scheduler then counts it by itself.
        child = subprocess.Popen(command, env=environ, start_new_session=True)
        self.children.append(child)
        return child

    def measures(self, part: str) -> str:
        return f"{self.home}/{part}.ndjson"

    def lines(self) -> list[Line]:
        return _read(self.measures("watched_root"), Line)

    def views(self) -> list[View]:
        return _read(self.measures("watched_viewer"), View)

    async def until(self, is_so, within_s: float) -> Line | None:  # type: ignore[no-untyped-def]
        """The root's first line for which it is so; None: none came in time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := next((line for line in self.lines() if is_so(line)), None):
                return found
            if self.children[0].poll() is not None:
                raise SystemExit(f"the root has ended: see {self.folder.path}/observer.log")
            await asyncio.sleep(0.5)
        return None

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self.options.keep:
            print(f"kept: {self.folder.path}")
        else:
            shutil.rmtree(self.home, ignore_errors=True)

    def _count_bytes(self) -> None:
        send = Channel.send

        async def counted(channel: Channel, body: bytes) -> None:
            self.sent += len(body) + 20
            await send(channel, body)

        Channel.send = counted  # type: ignore[method-assign]


def _read(path: str, kind: type) -> list:
    found = []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for row in file.read().split(b"\n"):
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(row, type=kind))
    return found


def make_room(nodes: int) -> None:
    """A leaf is a process of its own; so many in one pass the limits that are meant for one."""
    raise_file_limit()
    links = zmq.asyncio.Context.instance()
    links.set(zmq.MAX_SOCKETS, max(1024, 2 * SOCKETS_OF_A_LINK * nodes))


async def measure(job: Job) -> dict[str, str]:
    """Runs the phases; what was found, by name."""
    job.start("watched_root")
    await job.until(lambda line: True, 30)
    began = time.monotonic()
    for node in job.racks or job.nodes:
        node.link(job.place, job.token.encode())
    await asyncio.gather(*(node.start_ranks() for node in job.nodes))
    ticking = [
        asyncio.create_task(node.tick_for_ever(TICK_S * n / len(job.nodes)))
        for n, node in enumerate(job.nodes)
    ]
    found = {**await join(job, began), **await run_steady(job), **await hang(job)}
    lines = job.lines()
    found["root's memory, peak"] = _mib(max(line.peak for line in lines))
    found["root's CPU, all phases"] = f"{lines[-1].cpu_s:.1f} s of {time.monotonic() - began:.0f} s"
    found["links lost"] = str([u for line in lines for u in line.unlinked][:3] or "none")
    found["root's folder"] = _mib(_size_of(job.folder.path))
    found["nodes that fell behind"] = str(sum(node.fell_behind for node in job.nodes))
    found |= _viewer(job)
    for task in ticking:
        task.cancel()
    leaves = [node.leaf for node in job.racks or job.nodes if node.leaf]
    await asyncio.gather(*(leaf.close() for leaf in leaves))
    return found


async def join(job: Job, began: float) -> dict[str, str]:
    """Until the root and its viewer know every rank. `began`: the linking, of `time.monotonic`."""
    began_ns, ranks = int(began * 1e9), job.options.ranks
    found = {"all nodes linked and told, after": f"{time.monotonic() - began:.1f} s"}
    joined = await job.until(lambda line: line.ranks >= ranks, JOINED_WITHIN_S)
    found["joined after"] = _since(joined, began_ns)
    job.start("watched_viewer")
    await wait_for(lambda: any(view.ranks for view in job.views()), SEEN_WITHIN_S)
    await asyncio.sleep(SETTLE_S)
    found["bytes to join"] = _mib(job.sent)
    return found


async def run_steady(job: Job) -> dict[str, str]:
    """A while of training in which nothing happens."""
    sent, steady_ns = job.sent, time.monotonic_ns()
    await asyncio.sleep(job.options.seconds)
    found = {"bytes a second, steady": _mib((job.sent - sent) / job.options.seconds)}
    return found | _behind("steady", job, steady_ns, time.monotonic_ns())


async def hang(job: Job) -> dict[str, str]:
    """One rank stays away, and the root has to blame it."""
    sent = job.sent
    job.training.hang()
    blamed = (job.training.missing,)
    deadline_ns = job.training.hung_ns + int(job.options.deadline * 1e9)
    judged = await job.until(
        lambda line: any(v[2] == blamed and v[4] for v in line.verdicts), JUDGED_WITHIN_S
    )
    await wait_for(lambda: any(view.culprits == blamed for view in job.views()), SEEN_WITHIN_S)
    await asyncio.sleep(AFTER_S)
    found = {"bytes of the burst": _mib(job.sent - sent)}
    found |= _behind("burst", job, job.training.hung_ns, time.monotonic_ns())
    found |= _verdict(job, blamed, deadline_ns)
    return {**found, "verdict": "right" if judged else "NOT FOUND"}


async def wait_for(is_so: Callable[[], bool], within_s: float) -> None:
    """Until it is so, or for as long at most: that it never was is seen from the measures."""
    deadline = time.monotonic() + within_s
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(0.5)


def _behind(phase: str, job: Job, from_ns: int, to_ns: int) -> dict[str, str]:
    lines = [line for line in job.lines() if from_ns < line.now_ns <= to_ns]
    if not lines:
        return {f"{phase}: root": "SAID NOTHING"}
    lags: Counter[int] = Counter()
    for line in lines:
        lags.update({int(age): count for age, count in line.lags.items()})
    views = [view for view in job.views() if from_ns < view.now_ns <= to_ns]
    span_s = (lines[-1].now_ns - lines[0].now_ns) / 1e9 or 1.0
    cpu = (lines[-1].cpu_s - lines[0].cpu_s) / span_s
    return {
        f"{phase}: event to root's state, median / p99 / worst": " / ".join(
            f"{_quantile(lags, share):.2f} s" for share in (0.5, 0.99, 1.0)
        ),
        f"{phase}: oldest rank in the root's state": f"{max(one.worst_rank_s for one in lines):.1f} s",
        f"{phase}: oldest rank at a viewer": f"{max((v.worst_rank_s for v in views), default=-1):.1f} s",
        f"{phase}: events a second": f"{sum(one.events for one in lines) / span_s:.0f}",
        f"{phase}: root's CPU": f"{100 * cpu:.0f} % of a core",
        f"{phase}: root's longest tick / standstill": f"{max(one.tick_s for one in lines):.2f} s / "
        f"{max(one.stall_s for one in lines):.2f} s",
    }


def _quantile(lags: Counter[int], share: float) -> float:
    wanted, seen = share * sum(lags.values()), 0
    for age in sorted(lags):
        seen += lags[age]
        if seen >= wanted:
            return (age + 1) * BUCKET_NS / 1e9
    return -1.0


def _verdict(job: Job, blamed: tuple[int, ...], deadline_ns: int) -> dict[str, str]:
    lines = job.lines()
    looks = [node.looks[0] for node in job.nodes if node.looks]
    asked_ns = min(looks, default=0)
    full = next((line for line in lines if line.stacks >= job.options.ranks), None)
    verdicts = [v for line in lines for v in line.verdicts if v[2] == blamed]
    seen = next((view for view in job.views() if view.culprits == blamed), None)
    told = f"{verdicts[0][1]} {list(verdicts[0][2])}" if verdicts else "none"
    kept = next((v for v in verdicts if v[4]), None)
    return {
        "burst: look asked for, after the hang": f"{(asked_ns - job.training.hung_ns) / 1e9:.1f} s",
        "burst: all stacks merged, after the look": f"{(full.stacks_ns - asked_ns) / 1e9:.1f} s"
        if full
        else f"{lines[-1].stacks}: of like ones a rack passes on few"
        if job.racks
        else f"NOT ALL: {lines[-1].stacks}",
        "burst: finding": told,
        "burst: verdict and report kept, after the deadline": f"{(kept[0] - deadline_ns) / 1e9:.1f} s"
        if kept
        else "NEVER",
        "burst: verdict at the viewer, after the deadline": f"{(seen.now_ns - deadline_ns) / 1e9:.1f} s"
        if seen
        else "NEVER",
    }


def _viewer(job: Job) -> dict[str, str]:
    views = job.views()
    if not views:
        return {"viewer": "SAW NOTHING"}
    return {
        "viewer: first picture": f"{views[0].opened_s:.1f} s, {views[0].ranks} ranks",
        "viewer: memory, peak": _mib(views[-1].peak),
        "viewer: CPU, first picture / in all": f"{views[0].cpu_s:.1f} s / {views[-1].cpu_s:.1f} s",
        "viewer: lost": next((view.lost for view in views if view.lost), "never"),
    }


def _since(line: Line | None, since_ns: int) -> str:
    return f"{(line.now_ns - since_ns) / 1e9:.1f} s" if line else "NEVER"


def _mib(count: float) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _size_of(path: str) -> int:
    return sum(
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(path)
        for name in names
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=1000)
    options.add_argument("--nodes", type=int, default=128)
    options.add_argument(
        "--racks", type=int, help="roots of racks; 0: none; default: as many as the product makes"
    )
    options.add_argument("--seconds", type=float, default=30.0, help="of the steady state")
    options.add_argument("--deadline", type=float, default=12.0, help="of a collective")
    options.add_argument("--keep", action="store_true", help="leave the root's run folder")
    job = Job(options.parse_args())
    make_room(job.options.nodes)
    logging.getLogger("distwatch.observer").setLevel(logging.ERROR)
    try:
        found = asyncio.run(measure(job))
    finally:
        job.close()
    racks = f" in {job.options.racks} racks" if job.options.racks else ""
    print(f"| {job.options.ranks} ranks on {job.options.nodes} nodes{racks} | |")
    print("|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
