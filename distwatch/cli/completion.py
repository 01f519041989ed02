"""`distwatch completion`: what a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from distwatch.cli.terminal import echo

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print the completion script for a shell.

    \b
    bash:  eval "$(distwatch completion bash)"        in ~/.bashrc
    zsh:   eval "$(distwatch completion zsh)"         in ~/.zshrc
    fish:  distwatch completion fish | source         in config.fish
    """
    echo(script(shell), nl=False)
    return 0


def script(shell: str) -> str:
    """The script itself; it asks `distwatch` at each completion, and so never falls behind."""
    from distwatch.cli.__main__ import cli

    made = get_completion_class(shell)
    assert made is not None, shell
    return made(cli, {}, "distwatch", "_DISTWATCH_COMPLETE").source() + "\n"
