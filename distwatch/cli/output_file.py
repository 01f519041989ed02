"""`--output FILE`: writes a command's document to a file instead of stdout."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.foreign_files import write_whole

F = TypeVar("F", bound=Callable[..., Any])


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
