"""Options and output that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from distwatch.cli.terminal import echo, wants_color
from distwatch.errors import AttachDenied, UsageError
from distwatch.foreign_files import write_whole
from distwatch.settings import default_root, run_root
from distwatch.state.finding import Finding

if TYPE_CHECKING:
    from distwatch.report.document import Report

F = TypeVar("F", bound=Callable[..., Any])
ROOT_DEFAULT = (
    "$DISTWATCH_DIR, else $XDG_RUNTIME_DIR/distwatch, else /tmp/distwatch-UID; "
    f"now {run_root(os.environ)}"
)
HANG_FOUND = 3
PARTIAL = 6
_OTHER_ROOT = "Run as the job's user, or set DISTWATCH_DIR to a folder of your own."


class WholeNumber(click.IntRange):
    """As click's own, which calls itself an `integer range` where it takes no other text."""

    name = "whole number"


def root_option(function: F) -> F:
    """`--dir`: where the run folders are."""
    return click.option(
        "--dir",
        "root",
        metavar="DIR",
        default=lambda: run_root(os.environ),
        help=f"Root of the run folders.  [default: {ROOT_DEFAULT}]",
        callback=lambda _context, _parameter, path: readable_root(path),
    )(function)


def readable_root(path: str) -> str:
    """The absolute path of a root, which need not exist yet.

    Raises:
        UsageError: it is a file.
        AttachDenied: it exists and cannot be read: its runs must not count as absent. Or it belongs
            to someone else: its runs must not count as ours.
    """
    path = os.path.abspath(path)
    owner = os.lstat(path).st_uid if os.path.lexists(path) else 0
    # root may name any user's folder, but root's own default folder must be root's.
    if owner not in (os.getuid(), 0) and (os.getuid() or path == default_root()):
        raise AttachDenied(f"{path} belongs to uid {owner}", advice=_OTHER_ROOT)
    if os.path.exists(path) and not os.path.isdir(path):
        raise UsageError(
            f"{path} is not a folder", advice="Name the folder that holds the run folders."
        )
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise AttachDenied(f"{path} cannot be read by uid {os.getuid()}", advice=_OTHER_ROOT)
    return path


def color_option(function: F) -> F:
    """`--color auto|always|never`; NO_COLOR wins over auto. Decides which styles reach stdout."""

    def choose(context: click.Context, _: click.Parameter, choice: str) -> str:
        context.color = wants_color(choice)
        return choice

    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        expose_value=False,
        callback=choose,
        help="Colour in text output; auto: on a terminal without NO_COLOR.",
    )(function)


def output_option(*formats: str) -> Callable[[F], F]:
    """`-o`: the format on stdout."""
    return click.option(
        "-o", "output", type=click.Choice(list(formats)), default=formats[0], show_default=True,
        help="Output format.",
    )  # fmt: skip


def file_option(function: F) -> F:
    """`--output`: the command gets it as `path`."""
    return click.option(
        "--output", "path", metavar="FILE", help="Write to this file instead of stdout (mode 0600)."
    )(function)


def require_file(path: str | None) -> None:
    """Raises UsageError where the file could not be written, before any work is done."""
    if path is None:
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder", advice="Name the file to write.")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise UsageError(f"there is no folder {parent}", advice="Create it first.")


def put_out(content: bytes, path: str | None) -> None:
    """Writes to stdout, or to a file with mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    if path is None:
        echo(content.decode("utf-8", "replace"), nl=False)
        return
    # A device or a pipe is written in place: replacing it would take it from everybody else.
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(content)
    else:
        write_whole(path, content)
    echo(f"distwatch: written to {path}", err=True)


def exit_code(findings: list[Finding], *, partial: bool = False) -> int:
    """The contract's exit code for a verdict."""
    if any(finding.blocks for finding in findings):
        return HANG_FOUND
    return PARTIAL if partial else 0


def exit_code_of(report: Report) -> int:
    """The contract's exit code for a report: 3 for a hang or a crash, 6 if ranks were not observed."""
    coverage = report.coverage
    # A job without any rank is not healthy either.
    partial = coverage.observed_ranks < (coverage.expected_ranks or 1)
    return exit_code(report.findings, partial=partial)


def shell_option(function: F) -> F:
    """`--shell`: how another host is reached."""
    return click.option(
        "--shell",
        default="ssh {host}",
        show_default=True,
        metavar="COMMAND",
        help="Hosts: the command that runs a command on a host.",
    )(function)
