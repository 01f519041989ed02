"""How a process enters its run: its folder, role and start record. Imports only os and sys."""

from __future__ import annotations

import _thread
import os
import sys

from distwatch.launch import connected_ray_run_name, launch_id
from distwatch.runfolder import (
    RANK_VARIABLES,
    RunFolder,
    ancestors,
    host_name,
    is_child_of_rank,
    join,
    names_in,
    require_safe_root,
    start_ticks,
    write_start,
)
from distwatch.settings import run_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Includes distwatch's own command: in a rank's shell it must not look like that rank.
_LAUNCHERS = "distwatch torchrun accelerate accelerate-launch deepspeed srun mpirun".split()
_LAUNCHER_MODULES = (
    "distwatch torch.distributed.run torch.distributed.launch accelerate.commands.launch "
    "accelerate.commands.accelerate_cli deepspeed.launcher.runner deepspeed.launcher.launch"
).split()
_RAY_SERVICES = ("/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/")
"""Its agents, dashboard and monitors: they inherit the variables of whoever starts the cluster."""
_entered: tuple[int, RunFolder, str, str] | None = None
_entering = _thread.RLock()
"""The standby's thread may enter while the main thread imports torch."""


def role_of(argv: list[str], environ: Mapping[str, str]) -> str:
    """launcher, rank or other, from the command line and the launcher's variables."""
    script, module = _program(argv)
    if os.path.basename(script) in _LAUNCHERS or module in _LAUNCHER_MODULES:
        return "launcher"
    return "rank" if any(environ.get(name) for name in RANK_VARIABLES) else "other"


def is_ray_worker(argv: list[str]) -> bool:
    """Whether the command line is a Ray worker's."""
    return os.path.basename(_program(argv)[0]) == "default_worker.py"


def is_ray_service(argv: list[str]) -> bool:
    """Whether the command line is of a program of Ray itself, which outlives every job of its cluster."""
    script = _program(argv)[0]
    if is_ray_worker(argv):
        return False
    return os.path.basename(script) == "ray" or any(part in script for part in _RAY_SERVICES)


def _program(argv: list[str]) -> tuple[str, str]:
    """The script and the module that the interpreter was told to run; '' for the one it was not."""
    arguments = iter(argv[1:])
    for argument in arguments:
        if not argument.startswith("-"):
            return argument, ""
        if argument.startswith("--"):
            continue
        # Flags may be joined (-um module); these four take the rest or the next argument.
        place = next((n for n, letter in enumerate(argument) if letter in "cmWX"), None)
        if place is not None:
            value = argument[place + 1 :] or next(arguments, "")
            if argument[place] in "cm":
                return "", value if argument[place] == "m" else ""
    return "", ""


def enter_run(environ: Mapping[str, str]) -> tuple[RunFolder, str, str]:
    """This process's run folder, the stem of its files, and its role; once per process.

    A child of a rank inherits the rank's variables, but its role is child.

    Raises:
        OSError: the folder cannot be created, or is not private to this user.
    """
    with _entering:
        return _enter(environ)


def _enter(environ: Mapping[str, str]) -> tuple[RunFolder, str, str]:
    global _entered
    if _entered is not None and _entered[0] == os.getpid():
        return _entered[1:]
    root, role = run_root(environ), role_of(sys.orig_argv, environ)
    require_safe_root(root)
    if role == "other" and _is_forked():
        role = "child"
    folder = _folder_of_ancestor(root, environ) if role in ("other", "child") else None
    if folder is None:
        folder = join(root, environ.get("DISTWATCH_RUN_ID") or _name(environ), environ)
    if role == "rank" and is_child_of_rank(folder):
        role = "child"
    stem = write_start(folder, role, environ)
    _entered = (os.getpid(), folder, stem, role)
    return folder, stem, role


def enter_chosen_run(folder: RunFolder, role: str, environ: Mapping[str, str]) -> None:
    """Enters a run that `attach --inject` has chosen, whatever the environment says.

    Raises:
        OSError: as `enter_run`.
    """
    global _entered
    folder.create()
    _entered = (os.getpid(), folder, write_start(folder, role, environ), role)


def leave_run() -> None:
    """Takes this process's start record back: distwatch has left it, and a later attach begins anew."""
    global _entered
    if _entered is not None and _entered[0] == os.getpid():
        _, folder, stem, _ = _entered
        path = os.path.join(folder.path, f"{stem}.start")
        if os.path.exists(path):
            os.unlink(path)
    _entered = None


def entered_run() -> RunFolder | None:
    """The run that this process has entered; None where it has not entered any."""
    if _entered is not None and _entered[0] == os.getpid():
        return _entered[1]
    return None


def _name(environ: Mapping[str, str]) -> str:
    # Without distwatch's setup hook, Ray's environment names the job, but not its cluster.
    of_ray = connected_ray_run_name() if is_ray_worker(sys.orig_argv) else ""
    return of_ray or launch_id(environ) or f"run-{os.urandom(4).hex()}"


def _is_forked() -> bool:
    """Whether it remembers the entry of the process that forked it."""
    return _entered is not None and _entered[0] in ancestors(os.getpid(), most=2)


def _folder_of_ancestor(root: str, environ: Mapping[str, str]) -> RunFolder | None:
    """The run that an ancestor entered: spawned workers have no variables of their own."""
    if environ.get("DISTWATCH_RUN_ID"):
        return None
    if _entered is not None and _is_forked():
        return _entered[1]
    host = host_name()
    for pid in ancestors(os.getpid(), most=8):
        for name in names_in(root):
            folder = RunFolder(os.path.join(root, name))
            if folder.start(f"{host}-{pid}").get("ticks") == str(start_ticks(pid)):
                return folder
    return None
