"""The `distwatch` command."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from distwatch import __version__
from distwatch.visible_text import visible_line

GROUPS = {
    "Look at a job": {
        "attach": "Open the TUI on the whole run that a process belongs to.",
        "ps": "List this node's runs, one line each.",
        "status": "Show a run's ranks and the verdict.",
        "stacks": "Merge all ranks' stacks into one tree with rank sets.",
        "dump": "Ask the observer for a full incident now.",
        "up": "Start observers on every node of a cluster, with one merged view.",
        "mcp": "Answer a coding agent's questions over stdio, read-only.",
        "serve": "Serve reports and metrics of this node's runs over HTTP, read-only.",
    },
    "Before a launch": {
        "check": "Check a plan: sizes that do not divide, the groups, what this machine lacks.",
        "doctor": "Check this machine: rights, py-spy, GPUs, memory, network, versions.",
        "env": "Show the launcher's variables: set, derived, missing.",
        "notify": "Test whom the observer tells of a hang or a crash.",
        "version": "Show the version.",
        "completion": "Print the completion script for bash, zsh or fish.",
    },
    "Start a job": {
        "run": "Run any command with distwatch on.",
        "demo": "Run a real torchrun job that hangs, and explain it.",
    },
    "Afterwards": {
        "report": "Write the post-mortem from what is on disk, the job alive or dead.",
        "replay": "Open the TUI on a recorded run: step, seek, pause.",
        "diff": "Compare a run with a healthy one: versions, environment, layout, calls, steps.",
        "repro": "Write a small script whose ranks part as a run's did.",
        "export": "Convert a run for Perfetto, speedscope, Prometheus or OTLP.",
        "import": "Dumps of torch's flight recorder or of py-spy, as a run with its verdict.",
        "clean": "Remove the folders of runs that have ended.",
    },
}
EPILOG = """\b
Examples:
  distwatch check plan.yaml --world-size 16
  distwatch run -- torchrun --nproc-per-node=8 train.py
  distwatch attach 12345
  distwatch report my-run -o html --output report.html
\b
Exit codes: 0 ok · 1 error · 2 usage or no terminal · 3 a hang or crash found
4 permission · 5 no such run or process · 6 partial data"""


class LazyGroup(click.Group):
    """Imports a command's file when the command is called, and not for `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in GROUPS.values() for name in commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = "import_" if name == "import" else name
        command: click.Command = importlib.import_module(f"distwatch.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx):
            import difflib  # for a mistake only

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See `distwatch --help`."
            ctx.fail(f"there is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone (`| head`): no failure of ours. click would end with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="distwatch")
def cli() -> None:
    """Why does my distributed PyTorch job hang? Which rank, which step, why, what to do."""


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line and exits with the contract's codes."""
    # The tool must never watch itself.
    os.environ["DISTWATCH"] = "0" if (arguments or sys.argv[1:])[:1] != ["run"] else "1"
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without a glyph for a character shows the character's number instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(args=arguments, prog_name="distwatch", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except KeyboardInterrupt:
        code = 130
    except click.ClickException as error:
        code = _show(error)
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _replace_closed_streams() -> None:
    """For a closed stream (`<&-`) Python has None, and the next opened file would get its number."""
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(
                sys, name, os.fdopen(os.open(os.devnull, mode), "r" if name == "stdin" else "w")
            )


def _show(error: click.ClickException) -> int:
    from distwatch.cli.terminal import echo

    # The error quotes arguments, which may come from anywhere.
    said = io.StringIO()
    error.show(said)
    echo(said.getvalue(), err=True, nl=False)
    return error.exit_code


def _explain(error: Exception) -> int:
    from distwatch.cli.terminal import echo
    from distwatch.errors import DistwatchError
    from distwatch.runfolder import FolderDenied

    if os.environ.get("DISTWATCH_DEBUG") == "1":
        raise error
    if isinstance(error, DistwatchError):
        echo(f"distwatch: {error}", err=True)
        return error.exit_code
    if isinstance(error, PermissionError):
        echo(f"distwatch: not permitted: {error}. Run it as the job's user.", err=True)
        return 4
    if isinstance(error, FolderDenied):
        echo(f"distwatch: {error}", err=True)
        return 4
    if isinstance(error, OSError):
        echo(f"distwatch: {error}", err=True)
        return 1
    echo(
        f"distwatch: unexpected {type(error).__name__}: {visible_line(str(error)).rstrip('. ')}. "
        "DISTWATCH_DEBUG=1 shows the traceback; please report it.",
        err=True,
    )
    return 1


if __name__ == "__main__":
    main()
