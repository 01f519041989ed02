"""`python -m distwatch.observer.cluster.host_keeper`: the keeper of one run on this host.

Reads its task from stdin, answers with one line of JSON, and continues in the background until the
run has ended here. A later keeper of the same run replaces it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import select
import signal
import sys
import time

import msgspec

from distwatch.errors import DistwatchError
from distwatch.foreign_files import open_ours
from distwatch.observer.cluster.node_keeper import KEEP_EVERY_S, Directory, NodeKeeper
from distwatch.observer.cluster.outside_watch import OutsideWatch
from distwatch.observer.cluster.parcel import BROUGHT, READY
from distwatch.observer.cluster.root_registry import Card
from distwatch.observer.cluster.roots import Roots
from distwatch.observer.cluster.tasks import HostJoined, Task
from distwatch.observer.link.root_address import parse_place
from distwatch.probes.procfs import read_bytes
from distwatch.runfolder import RunFolder, generations, host_name, name_of, require_safe_root
from distwatch.settings import run_root

NOT_YET_S = 600.0
"""How long a keeper waits for the first process of the run on its host."""
OVER_S = 15.0
"""How long the keeper outlives the run's last observer, which may be started again."""
_TASK_LIMIT = 1 << 16
_TAKEN_WITHIN_S = 15.0


class GivenRoot:
    """A directory of one given card."""

    def __init__(self, run: str, card: Card) -> None:
        self.cluster = card.cluster
        self._cards = {run: card}

    def roots_of(self, runs: dict[str, int]) -> tuple[dict[str, Card], dict[str, str]]:
        """As in `Directory`; the card is returned even if the run does not live here."""
        return self._cards, {}


def main() -> int:
    """Does one round, answers, and continues: in the background, or as long as its caller's pipe is open."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(_TASK_LIMIT), type=Task)
    folders = _folders(task)
    require_safe_root(folders)
    _end_brought(folders, task.run)
    lock = _take_over(folders, task.run)
    # What was brought along is removed at the interpreter's end.
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    signal.signal(signal.SIGTERM, _give_way)
    _take_the_jobs_name(folders, task.run)
    watch = None
    if task.job is not None:
        watch = OutsideWatch(RunFolder(os.path.join(folders, task.run)), task.job)
        watch.keep()
    directory = _directory(folders, task)
    keeper = NodeKeeper(folders, directory, lambda folder: name_of(folder.run_id) == task.run)
    keeper.keep()
    if not _answer(keeper, directory, task):
        os._exit(0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    try:
        _keep(keeper, watch, task, folders)
    except _Replaced:
        # The successor waits for this very lock file, and takes over the observer; not one that was
        # brought along, whose files go now.
        if watch is not None and BROUGHT in os.environ:
            watch.end()
        raise
    except BaseException:
        _finish(watch, task, folders)
        raise
    _finish(watch, task, folders)
    return 0


def _answer(keeper: NodeKeeper, directory: Directory, task: Task) -> bool:
    """Says what is here now; False in the process that the caller waits for, where another one goes on."""
    answer = HostJoined(
        called=host_name(),
        told=keeper.told.get(task.run, f"waits for the first process of {task.run} here"),
        failed=keeper.troubles.get(task.run, ""),
        card=None if task.card else directory.roots_of({})[0].get(task.run),
        pid=os.getpid(),
    )
    if not task.while_attached and (child := os.fork()):
        answer.pid = child
    elif not task.while_attached:
        _leave_the_caller()
        return True
    print(msgspec.json.encode(answer).decode(), flush=True)
    return task.while_attached


class _Replaced(SystemExit):
    """Another keeper of the same run takes over."""


def _give_way(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the successor asks again and again
    raise _Replaced(0)


def _finish(watch: OutsideWatch | None, task: Task, folders: str) -> None:
    try:
        if watch is not None and task.while_attached:
            watch.end()
    finally:
        os.unlink(_lock_path(folders, task.run))


def _directory(folders: str, task: Task) -> Directory:
    if task.card is not None:
        return GivenRoot(task.run, task.card)
    place = parse_place(task.listen)
    # Each run that is named so is a cluster of its own.
    return Roots(folders, place, f"{place.host}/{task.run}")


def _take_the_jobs_name(folders: str, run: str) -> None:
    """Uses this host's name in the job: an ssh session may lack its DISTWATCH_HOST."""
    starts = [start for folder in generations(folders, run)[-1:] for start in folder.starts()]
    names = {start["host"] for start in starts if start.get("host")}
    if len(names) == 1:
        os.environ["DISTWATCH_HOST"] = names.pop()


def _folders(task: Task) -> str:
    """The root of run folders here: by this host's environment, else the same as on the root's host."""
    given = os.environ.get("DISTWATCH_DIR")
    return task.folders if not given and os.path.isdir(task.folders) else run_root(os.environ)


def _keep(keeper: NodeKeeper, watch: OutsideWatch | None, task: Task, folders: str) -> None:
    seen, last = bool(keeper.told), time.monotonic()
    while time.monotonic() - last < (OVER_S if seen else NOT_YET_S):
        if not task.while_attached:
            time.sleep(KEEP_EVERY_S)
        elif _is_hung_up(KEEP_EVERY_S):
            return
        with contextlib.suppress(OSError, DistwatchError):  # the next round may succeed
            if watch is not None and not keeper.told:
                watch.keep()
            keeper.keep()
        if keeper.told:
            seen, last = True, time.monotonic()
        elif seen and not generations(folders, task.run):
            return  # somebody has removed the run


def _is_hung_up(within_s: float) -> bool:
    """Whether the caller has closed its end of our stdin."""
    ready, _, _ = select.select([sys.stdin], [], [], within_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def _leave_the_caller() -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _end_brought(folders: str, run: str) -> None:
    """Ends earlier keepers of the run that were brought along: each has a folder of its own."""
    place = os.environ.get(BROUGHT)
    for path in glob.glob(f"{place}/distwatch-*/runs/.keeper-{glob.escape(run)}") if place else ():
        if not path.startswith(f"{folders}/"):
            with contextlib.suppress(OSError):
                os.close(_take_lock(path, run))


def _take_over(folders: str, run: str) -> int:
    """Takes the lock of this host's keeper of the run; ends a keeper that holds it.

    Raises:
        OSError: that keeper does not end.
    """
    lock = _take_lock(_lock_path(folders, run), run)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _take_lock(path: str, run: str) -> int:
    lock = open_ours(path, os.O_RDWR | os.O_CREAT)
    until = time.monotonic() + _TAKEN_WITHIN_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).split()
            pid = int(holder[0]) if holder and holder[0].isdigit() else 0
            command = read_bytes(f"/proc/{pid}/cmdline") if pid else b""
            if b"host_keeper" in command or READY.encode() in command:
                os.kill(pid, signal.SIGTERM)
            if time.monotonic() > until:
                os.close(lock)
                raise OSError(f"another keeper of {run} does not end") from None
        time.sleep(0.05)


def _lock_path(folders: str, run: str) -> str:
    return os.path.join(folders, f".keeper-{run}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
