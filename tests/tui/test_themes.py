"""Themes: every one of Textual's is worn whole, and what a colour says is still told apart."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from distwatch.tui import styles
from distwatch.tui.themes import CALM, SETTING, Recolour
from tests.tui.driving import Viewer, watching
from tests.tui.scripted import hung_job, large_hang

OURS = {
    colour.lower()
    for name, colour in vars(styles).items()
    if name.isupper() and isinstance(colour, str) and colour.startswith("#")
}


def colours(viewer: Viewer) -> set[str]:
    """Every colour on the screen, as RGB."""
    found: set[str] = set()
    for strip in viewer.app.screen._compositor.render_strips():
        for segment in strip:
            for colour in (segment.style.color, segment.style.bgcolor) if segment.style else ():
                if colour is not None and colour.triplet is not None:
                    found.add(colour.triplet.hex)
    return found


async def test_our_own_theme_has_our_colours() -> None:
    async with watching(hung_job(), size=(120, 32)) as viewer:
        assert viewer.app.theme == CALM.name
        assert {styles.RED, styles.YELLOW, styles.YELLOW_TINT} <= colours(viewer)


@pytest.mark.parametrize("name", ["gruvbox", "textual-light", "ansi-dark", "ansi-light"])
async def test_another_theme_leaves_none_of_ours(name: str) -> None:
    async with watching(hung_job(), size=(120, 32)) as viewer:
        viewer.app.theme = name
        await viewer.pilot.pause()
        await viewer.press("9")
        assert not colours(viewer) & OURS
        # Back again, as one who only looks at a few does.
        viewer.app.theme = CALM.name
        await viewer.pilot.pause()
        await viewer.press("1")
        assert {styles.RED, styles.YELLOW} <= colours(viewer)


@pytest.mark.parametrize("name", sorted(BUILTIN_THEMES))
def test_bad_waiting_and_good_are_told_apart_in_every_theme(name: str) -> None:
    recolour = Recolour(BUILTIN_THEMES[name])
    tones = (styles.RED, styles.YELLOW, styles.GREEN)
    line = [Segment("x", Style.parse(tone)) for tone in tones]
    worn = recolour.apply(line, Color(0, 0, 0))
    assert len({segment.style.color for segment in worn if segment.style}) == len(tones)


async def test_the_setting_is_worn_and_a_wrong_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING, "nord")
    async with watching(large_hang(8), size=(80, 24)) as viewer:
        assert viewer.app.theme == "nord"
    monkeypatch.setenv(SETTING, "[none]")
    async with watching(hung_job(), size=(80, 24)) as viewer:
        assert viewer.app.theme == CALM.name
        assert "DISTWATCH_THEME=[none]: there is no such theme" in viewer.notices[0]
        assert "gruvbox" in viewer.notices[0]


async def test_the_key_opens_the_choice() -> None:
    async with watching(hung_job(), size=(120, 40)) as viewer:
        await viewer.press("T")
        assert "Search for themes" in viewer.screen
