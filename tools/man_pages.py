"""Writes share/: the man pages and completion scripts that the wheel installs, from the commands themselves.

`python tools/man_pages.py` after a change of a command; `--check` says whether that was done.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from click_man.man import ManPage

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from distwatch import __version__
from distwatch.cli.__main__ import EPILOG, GROUPS, cli
from distwatch.cli.completion import SHELLS, script

SHARE = Path(__file__).parent.parent / "share"
COMPLETIONS = {
    "bash": "bash-completion/completions/distwatch",
    "zsh": "zsh/site-functions/_distwatch",
    "fish": "fish/vendor_completions.d/distwatch.fish",
}
_SHORT_HELP = {name: text for commands in GROUPS.values() for name, text in commands.items()}


def files() -> Iterator[tuple[str, str]]:
    """Each file's path in share/, and its text."""
    context = click.Context(cli, info_name="distwatch", **cli.context_settings)
    yield "man/man1/distwatch.1", _page(context, (cli.help or "").rstrip("."))
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None, name
        below = click.Context(command, info_name=name, parent=context)
        yield f"man/man1/distwatch-{name}.1", _page(below, _SHORT_HELP[name].rstrip("."))
    for shell in SHELLS:
        yield COMPLETIONS[shell], script(shell)


def _page(context: click.Context, about: str) -> str:
    command = context.command
    records = (option.get_help_record(context) for option in command.get_params(context))
    page = ManPage(context.command_path)
    vars(page).update(
        version=__version__,
        date="",  # the same sources give the same page on any day
        short_help=about,
        synopsis=" ".join(command.collect_usage_pieces(context)),
        description=_roff(cleandoc(command.help or "")),
        options=[(record[0], _roff(_anywhere(record[1]))) for record in records if record],
        commands=[(name, _roff(text)) for name, text in _SHORT_HELP.items()]
        if command is cli
        else [],
    )
    if command is cli:
        return f"{page}.SH NOTES\n{_roff(cleandoc(EPILOG))}\n"
    return f"{page}.SH SEE ALSO\n.BR distwatch (1)\n"


def _anywhere(text: str) -> str:
    """A default as it is on any machine, without what it is on this one."""
    return re.sub(r"; now [^\]]+", "", text)


def _roff(text: str) -> str:
    """Text that stays text: paragraphs after click's \\b keep their lines."""
    text = re.sub(r"^([.'])", r"\\&\1", text.replace("\\", r"\e"), flags=re.MULTILINE)
    return "\n\n".join(
        f".nf\n{paragraph[2:]}\n.fi" if paragraph.startswith("\b\n") else paragraph
        for paragraph in re.split(r"\n\n|\n(?=\x08\n)", text)
    )


def main() -> int:
    """Writes the files, or with `--check` names those that are not as they would be written."""
    check = "--check" in sys.argv[1:]
    wanted = dict(files())
    there = {str(path.relative_to(SHARE)) for path in SHARE.rglob("*") if path.is_file()}
    stale = sorted(there - set(wanted))
    for name, text in wanted.items():
        path = SHARE / name
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
    if not check:
        for name in there - set(wanted):
            (SHARE / name).unlink()
    if check and stale:
        print(
            f"share/ is not current: {', '.join(stale)}\npython tools/man_pages.py", file=sys.stderr
        )
    return bool(check and stale)


if __name__ == "__main__":
    sys.exit(main())
