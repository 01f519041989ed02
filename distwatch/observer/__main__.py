"""`python -m distwatch.observer RUN_FOLDER`: the node daemon, as the first agent starts it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time

from distwatch.observer.daemon import Observer
from distwatch.observer.link.start import Link
from distwatch.observer.serving import ViewerServer
from distwatch.runfolder import RunFolder

LOG_LIMIT = 1024 * 1024
_LOCK_TRIES = 5
log = logging.getLogger("distwatch.observer")


def take_lock(folder: RunFolder) -> int | None:
    """The lock of this node's one observer, with our pid in it; None where another holds it."""
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # `lock_holder` takes it for a moment, too, to see whether it is free.
            if attempt == _LOCK_TRIES - 1:
                os.close(descriptor)
                return None
            time.sleep(0.02)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def lock_holder(folder: RunFolder) -> int | None:
    """The pid of the observer that runs on this node, 0 where it has not said; None: none runs."""
    try:
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(descriptor, 32, 0).split()
        return int(said[0]) if said and said[0].isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)


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
