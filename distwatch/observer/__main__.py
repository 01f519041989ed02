"""`python -m distwatch.observer RUN_FOLDER`: the node daemon, as the first agent starts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from distwatch.observer.daemon import Observer
from distwatch.observer.link.start import Link
from distwatch.observer.lock import take_lock
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder

LOG_LIMIT = 1024 * 1024
log = logging.getLogger("distwatch.observer")


async def observe(folder: RunFolder) -> None:
    """Runs the observer and its viewers' socket until the run has ended."""
    observer = Observer(folder)
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
    try:
        reason = await observer.run()
        log.info("ended: %s", reason)
    finally:
        await link.close()
        await server.close()


def main(argv: list[str] | None = None) -> int:
    """Entry of the daemon; 0 also where another one is at work."""
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
    except Exception:
        log.exception("the observer failed")
        return 1
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
        os.close(lock)
    return 0


def _log_to(path: str) -> None:
    from logging.handlers import RotatingFileHandler

    handler = RotatingFileHandler(path, maxBytes=LOG_LIMIT, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
