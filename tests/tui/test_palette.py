"""The command palette: every key's command by its name, whatever signs the key is written with."""

from __future__ import annotations

from textual.command import CommandList

from distwatch.tui.keys import KEYS
from tests.tui.driving import watching
from tests.tui.scripted import hung_job


async def test_the_palette_lists_every_command_as_it_is_written() -> None:
    async with watching(hung_job(), size=(120, 70)) as viewer:
        await viewer.press("ctrl+p")
        options = viewer.app.screen.query_one(CommandList).options
        shown = [str(option.prompt) for option in options]
    titles = [f"{key.label}  [{key.shown}]\n{key.help}" for key in KEYS]
    assert shown == [t for t in titles if "Ctrl+P" not in t]


async def test_a_command_is_found_by_its_name_and_done() -> None:
    async with watching(hung_job(), size=(120, 30)) as viewer:
        await viewer.press("ctrl+p")
        await viewer.type("filt")
        found = viewer.app.screen.query_one(CommandList)
        while "Filter  [/]" not in "".join(str(option.prompt) for option in found.options[:1]):
            await viewer.pilot.pause()
        await viewer.press("enter")
        assert viewer.app._prompt.purpose == "filter"
