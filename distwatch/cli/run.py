"""`distwatch run -- COMMAND`: any launcher, with distwatch on in every Python process it starts."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from distwatch.cli.options import ROOT_DEFAULT, readable_root
from distwatch.cli.project import KEYS, project_settings
from distwatch.cli.ray_job import submits_job, with_settings
from distwatch.cli.terminal import echo
from distwatch.errors import AttachDenied, UsageError
from distwatch.integrations.registry import unknown_names
from distwatch.observer.responses.addresses import addresses_in
from distwatch.ray import job_environment
from distwatch.settings import ON_HANG, read_settings, run_root

if TYPE_CHECKING:
    from distwatch.cli.lone_programs import LonePrograms

_BY_A_SIGNAL = 128
BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap")


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--dir", "dir_", metavar="DIR", help=f"Root of the run folders.  [default: {ROOT_DEFAULT}]"
)
@click.option("--run-id", metavar="NAME", help="DISTWATCH_RUN_ID: names the run.")
@click.option(
    "--deadlines", metavar="KIND=S,…", help="DISTWATCH_DEADLINES, e.g. init=60,collective=120."
)
@click.option("--on-hang", type=click.Choice(ON_HANG), help="DISTWATCH_ON_HANG.")
@click.option(
    "--integrations", metavar="LIST", help="DISTWATCH_INTEGRATIONS; -name switches one off."
)
@click.option("--observer", metavar="auto|off|host:port", help="DISTWATCH_OBSERVER.")
@click.option(
    "--ring", metavar="SIZE", help="DISTWATCH_RING: bytes of each rank's ring, e.g. 4MiB."
)
@click.option(
    "--keep", metavar="AGE,SIZE", help="DISTWATCH_KEEP: how long ended runs stay, or all."
)
@click.option(
    "--notify", metavar="COMMAND|URL", help="DISTWATCH_NOTIFY: whom to tell of a hang or a crash."
)
@click.option("--drain", metavar="COMMAND", help="DISTWATCH_DRAIN, for --on-hang restart-node.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND…")
def command(arguments: tuple[str, ...], dir_: str | None, **options: str | None) -> int:
    """Run any command (torchrun, python, accelerate, srun, …) with distwatch on.

    Exits with the command's exit code. Options win over the environment, and the environment
    over `[tool.distwatch]` of ./pyproject.toml.
    """
    if not arguments:
        raise UsageError(
            "nothing to run", advice="distwatch run -- torchrun --nproc-per-node=8 train.py"
        )
    program = shutil.which(arguments[0])
    if program is None:
        raise UsageError(
            f"{arguments[0]!r} is not a command on PATH",
            advice="Give the command as you would type it.",
        )
    environ = environment_for({"dir": dir_, **options})
    named = _name_for_viewers(environ)
    echo(
        f"distwatch: run {environ['DISTWATCH_RUN_ID']}; watch it with: distwatch attach {named}",
        err=True,
    )
    argv = _argv(program, arguments, environ, dir_)
    programs = None
    if not submits_job(argv):
        from distwatch.cli.lone_programs import LonePrograms

        programs = LonePrograms(environ["DISTWATCH_DIR"], environ["DISTWATCH_RUN_ID"], environ)
    code = forward(argv, environ, programs)
    _say_what_is_left(code, environ, named)
    return code


def _argv(
    program: str, arguments: tuple[str, ...], environ: Mapping[str, str], dir_: str | None
) -> list[str]:
    argv = [program, *arguments[1:]]
    if not submits_job(argv):
        return argv
    # The cluster's machines have their own root, unless the user names one for them.
    here = () if dir_ or "DISTWATCH_DIR" in os.environ else ("DISTWATCH_DIR",)
    names = [name for name in environ if name.startswith("DISTWATCH_") and name not in here]
    return with_settings(argv, {name: environ[name] for name in names})


def environment_for(options: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of the command: options, then variables, then the project's settings.

    Raises:
        UsageError: a value is not valid.
        AttachDenied: the root cannot be written.
    """
    environ = dict(os.environ)
    project = project_settings()
    for key in KEYS:
        name = f"DISTWATCH_{key.upper()}"
        if (given := options.get(key)) is not None:
            environ[name] = given
        elif key in project:
            environ.setdefault(name, project[key])
    today = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    if not environ.get("DISTWATCH_RUN_ID"):
        environ["DISTWATCH_RUN_ID"] = f"run-{today}-{secrets.token_hex(2)}"
    environ["DISTWATCH"] = "1"
    environ.update(job_environment(environ))
    # The job's processes may change their working directory: this path is the same for all of them.
    environ["DISTWATCH_DIR"] = readable_root(run_root(environ))
    _require_sense(environ)
    if not has_pth():
        # A sitecustomize does the work of the missing .pth, and calls the next sitecustomize.
        paths = [BOOTSTRAP, environ.get("PYTHONPATH", "")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environ


def _require_sense(environ: Mapping[str, str]) -> None:
    run_id, root = environ["DISTWATCH_RUN_ID"], environ["DISTWATCH_DIR"]
    if not re.fullmatch(r"(?!\d+$)[\w:][\w.:-]*", run_id, re.ASCII):
        raise UsageError(
            f"{run_id!r} cannot name a run",
            advice="Use letters, digits and . _ : -; a plain number would be read as a pid.",
        )
    settings = read_settings(environ)
    if settings.complaints:
        raise UsageError(
            settings.complaints[0],
            advice="For example DISTWATCH_DEADLINES=init=60,collective=120, DISTWATCH_RING=1MiB, "
            "DISTWATCH_KEEP=14d,2GiB.",
        )
    if wrong := unknown_names(settings):
        raise UsageError(wrong.rstrip("."))
    for address in addresses_in(environ.get("DISTWATCH_NOTIFY", "")):
        if address.complaint:
            raise UsageError(address.complaint)
    if settings.observer not in ("auto", "off") and ":" not in settings.observer:
        raise UsageError(
            f"DISTWATCH_OBSERVER={settings.observer!r} is not valid",
            advice="Use auto, off or host:port.",
        )
    if os.path.isdir(root) and not os.access(root, os.W_OK):
        raise AttachDenied(
            f"{root} cannot be written by uid {os.getuid()}",
            advice="Set DISTWATCH_DIR to a folder of your own.",
        )


def _name_for_viewers(environ: Mapping[str, str]) -> str:
    """The arguments with which other commands find the run from this shell."""
    name = shlex.quote(environ["DISTWATCH_RUN_ID"])
    root = environ["DISTWATCH_DIR"]
    return name if root == run_root(os.environ) else f"{name} --dir {shlex.quote(root)}"


def _say_what_is_left(code: int, environ: Mapping[str, str], named: str) -> None:
    if not os.path.isdir(os.path.join(environ["DISTWATCH_DIR"], environ["DISTWATCH_RUN_ID"])):
        why = (
            ": none of its Python processes used torch.distributed, or its Python has no distwatch installed"
            if code < _BY_A_SIGNAL
            else ""
        )
        echo(
            f"distwatch: the command ended with {code}, and nothing was recorded here{why}",
            err=True,
        )
    elif code:
        echo(
            f"distwatch: the command ended with {code}; see: distwatch report {named}",
            err=True,
        )


def has_pth() -> bool:
    """Whether the installed package activates itself by DISTWATCH=1."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return any(place and os.path.exists(os.path.join(place, "distwatch.pth")) for place in places)


def forward(argv: list[str], environ: dict[str, str], programs: LonePrograms | None = None) -> int:
    """Runs a command, passes signals on to it, and returns its exit code (128+n for signal n).

    Args:
        programs: looks for the command's Python programs while it runs.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        # Ctrl-C and Ctrl-\ reach the whole foreground group, so the command has received them.
        if number in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
            return
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    names = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    previous: dict[int, Any] = {}
    for number in (getattr(signal, name) for name in names):
        # An ignored signal stays ignored in the command, too: nohup works that way.
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, pass_on)
    try:
        process = subprocess.Popen(argv, env=environ)
        for number in early:
            process.send_signal(number)
        code = _wait(process, programs)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _wait(process: subprocess.Popen[bytes], programs: LonePrograms | None) -> int:
    """Its exit code. Looking for programs must not change anything about it."""
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(process.pid)
        with os.fdopen(descriptor, "rb") as ended:
            while programs is not None and not select.select([ended], [], [], programs.wait_s())[0]:
                try:
                    programs.look(process.pid)
                except Exception as error:
                    echo(f"distwatch: programs that are no ranks are not seen: {error!r}", err=True)
                    programs = None
    return process.wait()


def _in_foreground() -> bool:
    """Whether signals from the terminal's keys reach the command without us."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False
