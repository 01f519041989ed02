"""The help of every command: it fits a terminal of 80 columns, and man pages and completion are made of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from distwatch.cli.__main__ import GROUPS, cli
from tests.cli.runs import distwatch
from tools.man_pages import files

COMMANDS = [name for names in GROUPS.values() for name in names]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns(name: str) -> None:
    context = click.Context(cli, info_name="distwatch", max_content_width=80, terminal_width=80)
    command = cli.get_command(context, name) if name else cli
    assert command is not None
    shown = command.get_help(
        click.Context(command, info_name=name, parent=context if name else None)
    )
    assert not [line for line in shown.splitlines() if len(line) > 80]


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_man_pages_are_valid_roff() -> None:
    for name, text in files():
        if name.startswith("man/"):
            done = subprocess.run(
                ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-z"],
                input=text, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert done.stderr == "", name


def test_completion_knows_commands_and_options() -> None:
    completion = ShellComplete(cli, {}, "distwatch", "_DISTWATCH_COMPLETE")
    assert [item.value for item in completion.get_completions([], "st")] == ["status", "stacks"]
    assert "--inject" in [item.value for item in completion.get_completions(["attach"], "--")]


def test_an_unknown_shell_is_a_usage_error(tmp_path: Path) -> None:
    assert distwatch("completion", "tcsh", root=tmp_path).returncode == 2
