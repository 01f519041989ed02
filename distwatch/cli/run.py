"""`distwatch run -- COMMAND`: any launcher, with distwatch on in every Python process it starts."""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import click

from distwatch.errors import UsageError

_KEYS = ("dir", "run_id", "deadlines", "on_hang", "integrations", "observer")
_SITE = """import os, sys
sys.path[:0] = [{home!r}]
try:
    import distwatch.auto
except Exception as error:
    print("distwatch: not active here:", error, file=sys.stderr)
# Another sitecustomize on the path would be shadowed by this one.
import importlib.machinery, importlib.util
_here = os.path.dirname(os.path.abspath(__file__))
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", [p for p in sys.path if p != _here])
if _spec and _spec.loader:
    _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
"""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--dir", "dir_", metavar="DIR", help="DISTWATCH_DIR: root of the run folders.")
@click.option("--run-id", metavar="NAME", help="DISTWATCH_RUN_ID: names the run.")
@click.option(
    "--deadlines", metavar="KIND=S,…", help="DISTWATCH_DEADLINES, e.g. init=60,collective=120."
)
@click.option(
    "--on-hang", type=click.Choice(["report", "raise", "abort"]), help="DISTWATCH_ON_HANG."
)
@click.option(
    "--integrations", metavar="LIST", help="DISTWATCH_INTEGRATIONS; -name switches one off."
)
@click.option("--observer", metavar="auto|off", help="DISTWATCH_OBSERVER.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND…")
def command(arguments: tuple[str, ...], dir_: str | None, **options: str | None) -> int:
    """Run any command (torchrun, python, accelerate, srun, …) with distwatch on.

    The command's exit code is passed on. Options win over the environment, and the environment
    over `[tool.distwatch]` of ./pyproject.toml.
    """
    if not arguments:
        raise UsageError(
            "nothing to run", advice="distwatch run -- torchrun --nproc-per-node=8 train.py"
        )
    program = shutil.which(arguments[0])
    if program is None:
        raise UsageError(
            f"{arguments[0]!r} is no command on PATH",
            advice="Give the command as you would type it.",
        )
    environ = environment_for({"dir": dir_, **options})
    run_id = environ["DISTWATCH_RUN_ID"]
    click.echo(f"distwatch: run {run_id}; watch it with: distwatch attach {run_id}", err=True)
    with tempfile.TemporaryDirectory(prefix="distwatch-site-") as site:
        if not has_pth():
            _add_site(site, environ)
        code = forward([program, *arguments[1:]], environ)
    if code:
        click.echo(
            f"distwatch: the command ended with {code}; what was seen: distwatch report {run_id}",
            err=True,
        )
    return code


def environment_for(options: dict[str, str | None]) -> dict[str, str]:
    """The environment of the command: options, then variables, then the project's settings."""
    environ = dict(os.environ)
    project = _project_settings()
    for key in _KEYS:
        name = f"DISTWATCH_{key.upper()}"
        if (given := options.get(key)) is not None:
            environ[name] = given
        elif key in project:
            environ.setdefault(name, project[key])
    today = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    environ.setdefault("DISTWATCH_RUN_ID", f"run-{today}-{secrets.token_hex(2)}")
    environ["DISTWATCH"] = "1"
    return environ


def has_pth() -> bool:
    """Whether the installed package activates itself by DISTWATCH=1."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return any(place and os.path.exists(os.path.join(place, "distwatch.pth")) for place in places)


def _add_site(site: str, environ: dict[str, str]) -> None:
    """From a source tree there is no .pth: a sitecustomize does its work, and calls the next one."""
    home = str(Path(__file__).resolve().parents[2])
    Path(site, "sitecustomize.py").write_text(_SITE.format(home=home))
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, environ.get("PYTHONPATH", "")]))


def forward(argv: list[str], environ: dict[str, str]) -> int:
    """Runs a command in our place: signals go to it, its exit code comes back (128+n for signal n)."""
    process = subprocess.Popen(argv, env=environ)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    # Ctrl-C reaches the whole foreground group by itself: we only must not die of it first.
    previous: dict[int, Any] = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None)}
    for passed in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        previous[passed] = signal.signal(passed, pass_on)
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _project_settings() -> dict[str, str]:
    path = Path("pyproject.toml")
    if not path.is_file():
        return {}
    try:
        import tomllib
    except ImportError:
        click.echo("distwatch: [tool.distwatch] is not read: that takes Python 3.11", err=True)
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("distwatch", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"./pyproject.toml cannot be read: {error}", advice="Mend it first."
        ) from None
    return {key.replace("-", "_"): _setting(value) for key, value in table.items()}


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={number}" for key, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
