"""Starts the node's observer where none runs: the first agent does it, any later one repairs it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

from distwatch.agent.ptrace import allow_tracing_by, yama_asks_for_consent
from distwatch.runfolder import RunFolder
from distwatch.settings import Settings

CHECK_EVERY_S = 5.0
TRIES = 5
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME",
              "VIRTUAL_ENV", "TMPDIR", "XDG_RUNTIME_DIR", "DISTWATCH_DIR", "SYSTEMROOT",
              "DISTWATCH_OBSERVER", "DISTWATCH_TOKEN", "DISTWATCH_HOST", "MASTER_ADDR")  # fmt: skip
_CODE = (
    "import sys; sys.path[:0] = sys.argv[2:3]; "
    "from distwatch.observer.__main__ import main; sys.exit(main(sys.argv[1:2]))"
)


class ObserverStart:
    """Looks every few seconds whether the run has an observer on this node."""

    def __init__(self, folder: RunFolder, settings: Settings) -> None:
        self._folder = folder
        self._wanted = settings.observer != "off"
        self._next_check = 0.0
        self._tries = 0
        self._allowed: int | None = None

    def ensure(self) -> None:
        """Spawns an observer, detached, where none runs. Called by the agent's thread only."""
        now = time.monotonic()
        if not self._wanted or now < self._next_check or self._tries >= TRIES:
            return
        self._next_check = now + CHECK_EVERY_S
        if (observer := self._observer_pid()) is not None:
            self._consent(observer)
            return
        # All ranks of a node find at once that nobody observes: one of them acts.
        gate = os.open(
            f"{self._folder.path}/observer.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if time.time() - os.fstat(gate).st_mtime < CHECK_EVERY_S and os.fstat(gate).st_size:
                return
            os.pwrite(gate, b"%d\n" % os.getpid(), 0)
            os.utime(gate)
            self._tries += 1
            self._spawn()
        finally:
            os.close(gate)

    def _observer_pid(self) -> int | None:
        try:
            with open(self._folder.lock, "rb") as file:
                pid = int(file.read(32).split()[0])
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if b"distwatch" in file.read() else None
        except (OSError, ValueError, IndexError):
            return None

    def _consent(self, observer: int) -> None:
        if observer != self._allowed:
            self._allowed = observer
            if yama_asks_for_consent():
                allow_tracing_by(observer)

    def _spawn(self) -> None:
        environ = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        # Through a shell that ends at once, so that the daemon is nobody's child: a host that
        # waits for any child must not find ours.
        subprocess.Popen(
            ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-c", _CODE, self._folder.path, home],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**environ, "DISTWATCH": "0"},
            start_new_session=True,
        ).wait()
