"""Python programs of a command that no launcher made a rank, and launchers that wait for other nodes: the run's
observer is told of them.

Such a program does not report itself (it may never load torch, and a thousand short ones must cost
nothing), but it may hang, too. `distwatch run` waits for the command anyway, and looks from outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from distwatch.errors import AttachDenied
from distwatch.observer.lock import lock_holder
from distwatch.observer_process import start_observer
from distwatch.probes.elastic_rendezvous import rendezvous_of
from distwatch.probes.table import ProcessTable, Seen
from distwatch.runfolder import RunFolder, host_name, join, write_start

FIRST_AFTER_S = 2.0
"""A program that has ended by then is not seen."""
LONGEST_PAUSE_S = 30.0


class LonePrograms:
    """Looks below the command's process, less and less often."""

    def __init__(self, root: str, run_id: str, environ: Mapping[str, str]) -> None:
        self._root = root
        self._run_id = run_id
        self._environ = environ
        self._pause_s = FIRST_AFTER_S
        self._next = time.monotonic() + FIRST_AFTER_S
        self._known: set[tuple[int, int]] = set()

    def wait_s(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._next - time.monotonic())

    def look(self, command_pid: int) -> None:
        """Enters the programs that are there, and makes sure that the run has an observer.

        Args:
            command_pid: the process that `distwatch run` has started.
        """
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._next = time.monotonic() + self._pause_s
        table = ProcessTable()
        command = table.get(command_pid)
        found = [(one, "other") for one in topmost(table, command)] if command else []
        found += [(one, "launcher") for one in waiting_launchers(table, command)] if command else []
        for program, role in found:
            if not self._is_new(program):
                continue
            try:
                self._enter(program, role)
            except (OSError, AttachDenied):
                return  # a full or unsafe root is reported by whoever else writes there

    def _is_new(self, program: Seen) -> bool:
        key = program.pid, program.start_ticks
        known = key in self._known
        self._known.add(key)
        return not known

    def _enter(self, program: Seen, role: str) -> None:
        environ = program.environ or {}
        folder = join(self._root, self._run_id, environ)
        if not _has_started(folder, program):
            write_start(folder, role, environ, program.pid)
        if environ.get("DISTWATCH_OBSERVER", "auto") == "auto" and lock_holder(folder) is None:
            start_observer(folder, self._environ)


def topmost(table: ProcessTable, command: Seen) -> Iterator[Seen]:
    """The Python programs at and below a process that no other one has started; launchers do not count."""
    programs: set[int] = set()
    for one in (command, *table.below(command)):
        if one.ppid in programs:
            programs.add(one.pid)
        elif one.is_python and one.environ is not None and table.role_of(one) == "other":
            programs.add(one.pid)
            if not one.is_distwatch:
                yield one


def waiting_launchers(table: ProcessTable, command: Seen) -> Iterator[Seen]:
    """Launchers of more than one node, at and below a process, that have started no process yet."""
    for one in (command, *table.below(command)):
        if table.role_of(one) != "launcher" or one.is_distwatch or any(table.below(one)):
            continue
        if rendezvous_of(one.argv, one.environ or {}) is not None:
            yield one


def _has_started(folder: RunFolder, program: Seen) -> bool:
    start = folder.start(f"{host_name()}-{program.pid}")
    return start.get("ticks") == str(program.start_ticks)
