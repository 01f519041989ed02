"""Nothing that a job has named steers the terminal under the TUI."""

from __future__ import annotations

import pytest

from distwatch.tui.keys import VIEWS
from distwatch.tui.once import render_once
from distwatch.tui.visible_text import Text
from tests.support.steering import SHOWN, STEERS, steered, steering
from tests.tui.driving import watching
from tests.tui.scripted import HOST, Entry, Script, failed_job, hung_job, state_of


class Steered(Script):
    """A script whose entries steer."""

    def __init__(self, script: Script) -> None:
        super().__init__(script.world)
        self._script = script

    @property
    def entries(self) -> list[Entry]:
        return [
            Entry(steered(one.header, HOST), one.seq, one.time_ns, steered(one.event, HOST))
            for one in self._script.entries
        ]


@pytest.mark.parametrize("script", [hung_job(), failed_job()], ids=["hung", "failed"])
async def test_no_view_and_no_detail_passes_on_what_steers(script: Script) -> None:
    async with watching(Steered(script), size=(200, 60)) as viewer:
        screens = [viewer.screen]
        for number, _ in enumerate(VIEWS, 1):
            await viewer.press(str(number))
            screens.append(viewer.screen)
            await viewer.press("enter")
            screens.append(viewer.screen)
            await viewer.press("escape")
        viewer.app.notify(f"dumped to [b]{STEERS}")
        await viewer.pilot.pause()
        screens.append(viewer.screen)
    assert [steering(screen) for screen in screens] == [[] for _ in screens]
    assert sum(SHOWN in screen for screen in screens) > 5
    assert "[b]" in screens[-1], "no markup"


@pytest.mark.parametrize("script", [hung_job(), failed_job()], ids=["hung", "failed"])
def test_one_screen_passes_on_nothing_either(script: Script) -> None:
    text = render_once(state_of(Steered(script)), 200, run_id=f"run{STEERS}")
    assert steering(text) == []
    assert SHOWN in text


def test_every_way_to_make_a_text_makes_it_visible() -> None:
    text = Text(STEERS).append(STEERS, "bold").append_text(Text(STEERS))
    text = Text.assemble(STEERS, (STEERS, "bold"), text, Text("\n").join([Text(STEERS)]))
    assert steering(text.plain) == []
    assert text.plain.count(SHOWN) == 6
