"""The only way in which commands write to stdout and stderr, and the colours that they use."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from distwatch.visible_text import visible, visible_line

_SEVERITY_COLORS = {"hang": "red", "crash": "red", "error": "red", "warning": "yellow"}


class Styled(str):
    """Text that is already visible and has our own escapes: `echo` does not change it."""

    __slots__ = ()


def echo(*parts: str, err: bool = False, nl: bool = True) -> None:
    """Writes to stdout or stderr; foreign text cannot steer the terminal."""
    text = "".join(part if isinstance(part, Styled) else visible(part) for part in parts)
    click.echo(text, err=err, nl=nl)


def echo_json(document: Any) -> None:
    """Writes a document, indented for people."""
    echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def styled(text: str, *, color: str | None = None, bold: bool = True) -> Styled:
    """One line in a style; `click.echo` drops the style where colour is off."""
    return Styled(click.style(visible_line(text), fg=color, bold=bold))


def severity_style(severity: str, text: str) -> Styled:
    """Text in the colour of a finding's severity."""
    return styled(text, color=_SEVERITY_COLORS.get(severity, "cyan"))


def wants_color(choice: str) -> bool:
    """Whether text on stdout is to be coloured."""
    if choice == "auto":
        dumb = os.environ.get("TERM") == "dumb"
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not dumb
    return choice == "always"


def is_terminal() -> bool:
    """Whether both stdin and stdout are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
