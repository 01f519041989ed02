"""Jobs of this user on this host that run without distwatch, as the process table shows them."""

from __future__ import annotations

import os

import msgspec

from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.targets.runs import run_of_pid
from distwatch.probes.discovery import ranks_here
from distwatch.settings import run_root
from distwatch.state.events import ProcessSighted
from distwatch.state.quantities import count_of


class UnwatchedJob(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that belong together, by rank. `command`: of the first one, secrets redacted."""

    pids: tuple[int, ...]
    command: tuple[str, ...]

    @property
    def text(self) -> str:
        """`2 ranks of train.py run without distwatch: …`; with usual names it fits 80 columns."""
        script = next((word for word in self.command if word.endswith(".py")), "")
        of_script = f" of {os.path.basename(script)}" if script else ""
        count = len(self.pids)
        return (
            f"{count_of(count, 'rank')}{of_script} {'runs' if count == 1 else 'run'} without distwatch: "
            f"`distwatch attach {self.pids[0]}`"
        )


def unwatched_jobs(root: str) -> list[UnwatchedJob]:
    """The jobs of which no run under that root, or under the root that they name, knows a process."""
    together: dict[object, list[ProcessSighted]] = {}
    folders = {root: run_folders(root)}
    for sighted, environ in ranks_here():
        own = run_root(environ)
        known = folders.setdefault(own, run_folders(own)) + folders[root]
        if run_of_pid(sighted.pid, known) is None:
            identity = sighted.identity
            key = identity.endpoint or identity.launch_id or sighted.ppid
            together.setdefault(key, []).append(sighted)
    in_order = [sorted(ranks, key=_rank) for ranks in together.values()]
    return [
        UnwatchedJob(pids=tuple(one.pid for one in ranks), command=ranks[0].command)
        for ranks in in_order
    ]


def _rank(sighted: ProcessSighted) -> int:
    return sighted.identity.global_rank or 0
