"""How a process enters its run: the folder, its own role, its start record. Imports only os and sys."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from distwatch.runfolder import (
    RANK_VARIABLES,
    RunFolder,
    is_child_of_rank,
    join,
    launch_id,
    parent_pid,
    start_ticks,
    write_start,
)
from distwatch.settings import run_root

_LAUNCHERS = ("torchrun", "accelerate", "deepspeed", "srun", "mpirun")
_LAUNCHER_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
)
_entered: tuple[int, RunFolder, str, str] | None = None


def role_of(argv: list[str], environ: Mapping[str, str]) -> str:
    """launcher, rank or other, from the command line and the launcher's variables."""
    if len(argv) > 1 and os.path.basename(argv[1]) in _LAUNCHERS:
        return "launcher"
    if any(module in argv[:4] for module in _LAUNCHER_MODULES):
        return "launcher"
    return "rank" if any(environ.get(name) for name in RANK_VARIABLES) else "other"


def enter_run(environ: Mapping[str, str]) -> tuple[RunFolder, str, str]:
    """This process's run folder, the stem of its files, and its role; once per process.

    A child of a rank inherits the rank's variables and does not pose as one: its role is child.

    Raises:
        OSError: the folder cannot be made, or is not ours alone.
    """
    global _entered
    if _entered is not None and _entered[0] == os.getpid():
        return _entered[1:]
    root, role = run_root(environ), role_of(getattr(sys, "orig_argv", sys.argv), environ)
    folder = _folder_of_ancestor(root, environ) if role == "other" else None
    if folder is None:
        folder = join(root, environ.get("DISTWATCH_RUN_ID") or _name(environ), environ)
    if role == "rank" and is_child_of_rank(folder):
        role = "child"
    stem = write_start(folder, role, environ)
    _entered = (os.getpid(), folder, stem, role)
    return folder, stem, role


def _name(environ: Mapping[str, str]) -> str:
    return launch_id(environ) or f"run-{os.urandom(4).hex()}"


def _folder_of_ancestor(root: str, environ: Mapping[str, str]) -> RunFolder | None:
    """The run that a parent entered: spawned workers have no variables of their own."""
    if environ.get("DISTWATCH_RUN_ID"):
        return None
    host, pid = os.uname().nodename, os.getppid()
    for _ in range(8):
        if pid <= 1:
            return None
        for name in _listdir(root):
            folder = RunFolder(os.path.join(root, name))
            for start in folder.starts_of(f"{host}-{pid}"):
                if start.get("ticks") == str(start_ticks(pid)):
                    return folder
        pid = parent_pid(pid)
    return None


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
