"""The app under a pilot: every key does what the help says, on live and recorded runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.tui.keys import KEYS
from tests.tui.driving import watching
from tests.tui.scripted import failed_job, healthy_job, hung_job, large_job

VERDICT = "rank 2 waits for data"


async def test_it_opens_on_the_verdict() -> None:
    async with watching(hung_job()) as viewer:
        first = viewer.screen.splitlines()[0]
        assert "HANG" in first
        assert VERDICT in first


async def test_a_healthy_job_says_so() -> None:
    async with watching(healthy_job()) as viewer:
        assert "HEALTHY" in viewer.screen.splitlines()[0]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("1", "waiting"),
        ("2", "missing: 2"),
        ("3", "__getitem__"),
        ("4", "not observed"),
        ("5", "step started"),
        ("6", "confidence"),
        ("7", "llama-tiny"),
        ("8", "no parallel layout seen"),
        ("9", "a tile a rank"),
        ("m", "a tile a rank"),
        ("0", "all_reduce #5 of default_pg · 42 s, past the deadline"),
        ("w", "ranks 0-1,3"),
        ("t", "▏waits for ranks"),
    ],
)
async def test_each_view_has_its_number(key: str, words: str) -> None:
    async with watching(hung_job(), size=(140, 40)) as viewer:
        await viewer.press(key)
        assert words in viewer.screen
        assert VERDICT in viewer.screen


async def test_c_jumps_to_the_culprit_and_enter_tells_all_of_it() -> None:
    async with watching(hung_job(), size=(120, 60)) as viewer:
        await viewer.press("6", "c", "enter")
        assert "data_loader.py" in viewer.screen
        assert "rank 2" in viewer.screen
        await viewer.press("escape")
        assert "RANK" in viewer.screen


async def test_a_filter_keeps_what_it_names_and_a_bad_one_says_why() -> None:
    async with watching(hung_job()) as viewer:
        await viewer.press("slash")
        await viewer.type("state=waiting")
        await viewer.press("enter")
        lists = [line[:60] for line in viewer.screen.splitlines()]  # beside them is the pane
        rows = [line for line in lists if " w waiting" in line]
        assert len(rows) == 3
        assert not any("r running" in line for line in lists)
        await viewer.press("slash")
        await viewer.type("age>soon")
        await viewer.press("enter")
        assert "age" in viewer.screen


async def test_space_freezes_the_display_and_says_how_far_behind_it_is() -> None:
    script = hung_job()
    async with watching(script, until=5.0, at=5.0) as viewer:
        before = viewer.screen.splitlines()[0]
        await viewer.press("space")
        viewer.source.reach(64.0)
        viewer.clock.at = 64.0
        await viewer.poll()
        assert viewer.screen.splitlines()[0] == before
        assert "PAUSED" in viewer.screen
        await viewer.press("space")
        assert VERDICT in viewer.screen


async def test_y_copies_the_verdict_and_e_writes_the_report(tmp_path: Path) -> None:
    async with watching(hung_job(), folder=str(tmp_path)) as viewer:
        await viewer.press("y")
        assert VERDICT in viewer.app.clipboard.replace("\\", "")
        await viewer.press("e")
        await viewer.finish_work()
        written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
        assert {".md", ".html", ".json"} <= written


async def test_help_tells_every_key() -> None:
    async with watching(hung_job(), size=(120, 70)) as viewer:
        await viewer.press("question_mark")
        shown = viewer.screen
        assert [key.shown for key in KEYS if key.help[:24] not in shown] == []


async def test_a_recording_steps_back_and_forth() -> None:
    async with watching(hung_job(), live=False) as viewer:
        assert VERDICT in viewer.screen
        await viewer.press("home")
        assert VERDICT not in viewer.screen
        await viewer.press("end")
        assert VERDICT in viewer.screen


async def test_eighty_columns_are_enough() -> None:
    async with watching(hung_job(), size=(80, 24)) as viewer:
        screen = viewer.screen
        assert VERDICT in " ".join(screen.split())
        assert "w waiting" in screen
        assert max(len(line) for line in screen.splitlines()) <= 80


async def test_without_colour_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with watching(hung_job()) as viewer:
        assert "HANG" in viewer.screen
        assert "▶    2" in viewer.screen


async def test_a_failed_rank_shows_its_exception() -> None:
    async with watching(failed_job(), size=(140, 40)) as viewer:
        assert "CRASH" in viewer.screen
        assert "ValueError" in viewer.screen


async def test_thousands_of_ranks_are_no_more_than_a_screen() -> None:
    async with watching(large_job(2000)) as viewer:
        await viewer.press("g")
        await viewer.type("1500")
        await viewer.press("enter")
        assert "1500" in viewer.screen


async def test_q_ends_it() -> None:
    async with watching(hung_job()) as viewer:
        await viewer.press("q")
        assert not viewer.app.is_running


async def test_a_picture_that_comes_while_the_viewer_closes_is_no_crash() -> None:
    async with watching(hung_job()) as viewer:
        # As it closes, Textual takes its widgets from it, the innermost first.
        for part in ("#verdict", "#advice", "#run", "#coverage"):
            await viewer.app.query_one(part).remove()
            viewer.app.draw()
