"""The only way in which commands write to stdout and stderr, and the colours that they use."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from distwatch.errors import UsageError
from distwatch.visible_text import visible, visible_line

if TYPE_CHECKING:
    from distwatch.diagnosis.verdict.headline import Headline

_COLORS = {
    **dict.fromkeys(("hang", "crash", "error"), "red"),
    **dict.fromkeys(("warning", "slow", "suspected", "watching"), "yellow"),
    **dict.fromkeys(("healthy", "idle"), "green"),
}


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


def verdict_style(word: str, text: str) -> Styled:
    """Text in the colour of a verdict's word or a finding's severity."""
    return styled(text, color=_COLORS.get(word, "cyan"))


def echo_verdict(verdict: Headline) -> None:
    """The verdict and what to do."""
    echo(verdict_style(verdict.word, f"{verdict.word}:"), f" {visible_line(verdict.sentence)}")
    if verdict.advice:
        echo(f"do: {visible_line(verdict.advice)}")


def wants_color(choice: str) -> bool:
    """Whether text on stdout is to be coloured."""
    if choice == "auto":
        dumb = os.environ.get("TERM") == "dumb"
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not dumb
    return choice == "always"


def require_terminal(advice: str) -> None:
    """Raises UsageError unless stdin and stdout are a terminal."""
    if not is_terminal():
        raise UsageError("there is no terminal here", advice=advice)


def is_terminal() -> bool:
    """Whether both stdin and stdout are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
