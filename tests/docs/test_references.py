"""What pages name exists: commands and their options, make targets, files, finding codes, variables."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import click
import pytest

from distwatch.cli.__main__ import GROUPS, LazyGroup, cli
from tests.docs.blocks import PAGES, REPOSITORY

TEXTS = {page: (REPOSITORY / page).read_text() for page in PAGES}
SOURCE = "\n".join(path.read_text() for path in sorted((REPOSITORY / "distwatch").rglob("*.py")))
SPAN = re.compile(r"`([^`\n]+)`")
FAMILIES = "rendezvous|group|collective|p2p|process|checkpoint|device|load|network"


def spans(page: str) -> list[str]:
    """Code within sentences and tables, and the lines of blocks."""
    blocks = re.findall(r"^```.*\n((?:.*\n)*?)^```$", TEXTS[page], re.MULTILINE)
    prose = re.sub(r"^```.*\n(?:.*\n)*?^```$", "", TEXTS[page], flags=re.MULTILINE)
    return SPAN.findall(prose) + [line for block in blocks for line in block.splitlines()]


def command_lines(page: str) -> list[list[str]]:
    """The words of each `distwatch COMMAND …`, up to where the shell or a launched program begins."""
    found = []
    for span in spans(page):
        for text in re.findall(r"(?:^|[\s\"(])distwatch ((?:[a-z]+\b)[^|;#)]*)", span):
            with contextlib.suppress(ValueError):  # a quote that closes later is no option's
                text = " ".join(word.replace(" ", "_") for word in shlex.split(text))
            words = text.split()
            found.append(words[: words.index("--")] if "--" in words else words)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_they_are_shown_with(page: str) -> None:
    for words in command_lines(page):
        assert isinstance(cli, LazyGroup)
        name, *arguments = words
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, f"distwatch {name} is none of {sorted(GROUPS)}"
        options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for place, word in enumerate(arguments):
            option = word.strip("[],").partition("=")[0]
            if not option.startswith("-"):
                continue
            assert option in options or option == "--help", f"distwatch {name} has no {option}"
            kind = options[option].type if option in options else None
            if isinstance(kind, click.Choice) and place + 1 < len(arguments):
                given = arguments[place + 1].strip("[]")
                assert given in kind.choices, f"distwatch {name} {option} {given}"


def file_of(name: str) -> Path | None:
    """The file of the repository that a page calls so."""
    roots = (REPOSITORY, REPOSITORY / "distwatch", REPOSITORY / "distwatch" / "integrations")
    return next((root / name for root in roots if (root / name).exists()), None)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[page])
    assert not [link for link in links if not (REPOSITORY / page).parent.joinpath(link).exists()]
    for span in spans(page):
        for name in re.findall(r"(?<![\w/.~…])[a-z_]+/[\w/.]*\.(?:py|md|txt)\b", span):
            assert file_of(name) is not None, name
    for name, path in re.findall(r"`(\w+)`\s+(?:in|\()\s*`([\w/]+/\w+\.py)`", TEXTS[page]):
        assert name in (file_of(path) or REPOSITORY / path).read_text(), f"{name} in {path}"


@pytest.mark.parametrize("page", PAGES)
def test_codes_variables_and_targets_are_those_of_the_source(page: str) -> None:
    text = TEXTS[page]
    codes = set(re.findall(rf"`((?:{FAMILIES})\.[a-z_]+)\b", text))
    assert not [code for code in sorted(codes) if f'"{code}"' not in SOURCE]
    makefile, tests = (REPOSITORY / "Makefile").read_text(), REPOSITORY / "tests"
    everything = SOURCE + "".join(path.read_text() for path in tests.rglob("*.py"))
    variables = set(re.findall(r"\bDISTWATCH(?:_[A-Z]+)+\b", text))
    assert not [name for name in sorted(variables) if name not in everything]
    targets = {
        target
        for span in spans(page)
        for target in re.findall(r"^make (?:[A-Z]+=\S+ )?([a-z-]+)", span)
    }
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]


def test_every_command_is_on_a_page() -> None:
    shown = {words[0] for page in PAGES for words in command_lines(page)}
    assert {name for names in GROUPS.values() for name in names} == shown
