"""`python -m distwatch.observer RUN_FOLDER`: the node daemon, as the first agent starts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.leftovers import sweep
from distwatch.observer.journals.pruning import prune
from distwatch.observer.journals.reading import any_alive, journal_paths
from distwatch.observer.link.start import Link
from distwatch.observer.lock import free_lock, take_lock
from distwatch.observer.serving import ViewerServer
from distwatch.observer.targets.target import RunHere
from distwatch.runfolder import RunFolder
from distwatch.settings import read_keep

LOG_LIMIT = 1024 * 1024
TIDY_EVERY_S = 600.0
LARGE = 16 * 1024 * 1024
log = logging.getLogger("distwatch.observer")


async def observe(folder: RunFolder) -> None:
    """Runs the observer and its viewers' socket until the run has ended."""
    observer = Observer(folder)
    observer.act_on_incidents(os.environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, observer.stop)
    link = Link(observer, os.environ)
    server = ViewerServer(observer, link)
    try:
        await server.start()
    except OSError as error:
        log.warning("viewers cannot connect: %s: %s", folder.socket, error)
    link.start()
    tidying = asyncio.create_task(_keep_tidy(folder))
    try:
        reason = await observer.run()
        log.info("ended: %s", reason)
    finally:
        await end_tasks(tidying)
        await link.close()
        await server.close()


async def _keep_tidy(folder: RunFolder) -> None:
    while True:
        try:
            await in_background(tidy, folder, within_s=None)
        except Exception:
            log.exception("could not tidy up ended runs")
        await asyncio.sleep(TIDY_EVERY_S)


def tidy(folder: RunFolder) -> None:
    """Removes runs that need not be kept any longer, and frees what other runs left in memory."""
    root = os.path.dirname(folder.path)
    for path in prune(root, read_keep(os.environ)[0]):
        log.info("removed, as DISTWATCH_KEEP says: %s", path)
    sweep(root, watched=folder.path)  # last: what it writes makes a run younger


def leave_report(folder: RunFolder) -> None:
    """Makes a large run that has ended quick to look at: leaves its state and the report on it."""
    try:
        sizes = (os.stat(path).st_size for path in journal_paths(folder))
        if not any_alive(folder) and sum(sizes) > LARGE:
            RunHere(folder).report()
    except Exception:
        log.exception("no report was left")


def main(argv: list[str] | None = None) -> int:
    """The daemon's entry point; returns 0 also if another observer is running."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not os.path.isdir(arguments[0]):
        print("usage: python -m distwatch.observer RUN_FOLDER", file=sys.stderr)
        return 2
    folder = RunFolder(arguments[0])
    os.umask(0o077)
    lock = take_lock(folder)
    if lock is None:
        return 0
    with contextlib.suppress(OSError):
        os.nice(5)
    os.chdir("/")
    _log_to(f"{folder.path}/observer.log")
    try:
        asyncio.run(observe(folder))
        leave_report(folder)
    except Exception:
        log.exception("the observer failed")
        return 1
    finally:
        free_lock(lock)
    return 0


def _log_to(path: str) -> None:
    from logging.handlers import RotatingFileHandler

    handler = RotatingFileHandler(path, maxBytes=LOG_LIMIT, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
