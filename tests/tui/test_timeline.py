"""Strips: what each rank did in the last minutes, live and at the cursor of a replay."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.tui.picture import Picture, take_picture
from distwatch.tui.views import timeline
from distwatch.views.activity_strip import Strip, bytes_of, cells_of, rates_of, strip_of
from tests.tui.driving import watching
from tests.tui.scripted import SECOND, Script, clock_at, failed_job, hung_job, state_of


def marks(picture: Picture, rank: int, began: float, ended: float, cells: int) -> str:
    strip = strip_of(picture.job, rank)
    kinds = cells_of(strip, clock_at(began), clock_at(ended), cells)
    return "".join(kind.mark for kind in kinds)


@pytest.fixture(scope="module")
def hung() -> Picture:
    return take_picture(state_of(hung_job()), "hung")


def test_the_rank_that_fell_out_of_step_works_while_the_others_wait(hung: Picture) -> None:
    assert marks(hung, 0, 22.0, 60.0, 19) == "w" * 19
    assert marks(hung, 2, 22.0, 60.0, 19) == "─" * 19
    # Its stack is known since 61.5 s only: what it did before is work, and not guessed.
    assert marks(hung, 2, 60.0, 62.5, 5).endswith("dd")


def test_steps_collectives_and_what_nobody_saw(hung: Picture) -> None:
    assert marks(hung, 0, 0.0, 20.0, 20)[:6] == "·─i─l─"
    assert "≈" in marks(hung, 0, 16.0, 22.0, 6)  # a collective and work in one second
    assert marks(hung, 0, 17.0, 17.2, 1) == "c"
    assert marks(hung, 0, 70.0, 72.0, 2) == "··"


def test_an_end_is_seen_and_an_unseen_rank_has_an_empty_strip() -> None:
    failed = take_picture(state_of(failed_job()), "failed")
    assert marks(failed, 1, 8.0, 12.0, 4) == "≈─xx"
    assert strip_of(failed.job, 3) == Strip()
    assert marks(failed, 3, 0.0, 12.0, 3) == "···"


def test_before_the_oldest_operation_that_is_kept_it_moved() -> None:
    script = Script(1)
    script.start(0, 0.0)
    operation = ev.Operation(
        number=500,
        op="allreduce",
        pg_name="0",
        seq=500,
        entered_ns=40 * SECOND,
        left_ns=41 * SECOND,
    )
    pulse = ev.Pulse(beat=1, beat_ns=50 * SECOND)
    script.see(50.0, ev.PulseRead(process=script.key(0), pulse=pulse, operations=(operation,)))
    script.see(50.0, ev.Ticked(host=script.host(0)))
    picture = take_picture(state_of(script), "moved")
    assert marks(picture, 0, 0.0, 50.0, 10) == "≈≈≈≈≈≈≈≈≈─"
    process = next(iter(picture.state.processes.values()))
    rates = rates_of(process, 5, 50 * SECOND, 50 * SECOND)
    assert rates == [None, None, None, 0.0, pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("numel", "dtype", "count"),
    [(10, "float32", 40), (10, "bfloat16", 20), (3, "float8_e4m3fn", 3), (-1, "float32", 0), (5, "", 0)],
)  # fmt: skip
def test_the_bytes_of_an_operation(numel: int, dtype: str, count: int) -> None:
    operation = ev.Operation(number=1, op="x", pg_name="0", entered_ns=1, numel=numel, dtype=dtype)
    assert bytes_of(operation) == count


def test_a_stopped_rank_is_stopped_since_its_last_beat() -> None:
    script = hung_job()
    sample = ev.ProcessSampled(process=script.key(1), state="T")
    script.see(62.4, sample)
    picture = take_picture(state_of(script), "stopped")
    assert marks(picture, 1, 62.0, 62.5, 1) == "T"


def test_a_long_stretch_has_its_word(hung: Picture) -> None:
    window = timeline.window_of(hung, 0)
    texts = [line.draw(100).plain for line in timeline.lines(hung, window)]
    assert "▏waits for ranks" in texts[0]
    assert texts[2].startswith("▶    2 r ")
    assert all(len(text) == 100 for text in texts)
    assert timeline.heading(hung, window, 100).plain.rstrip().endswith("now▕")


async def test_the_window_zooms() -> None:
    async with watching(hung_job(), size=(100, 24)) as viewer:
        await viewer.press("t")
        assert "▏-62 s" in viewer.screen
        await viewer.press("plus")
        assert "▏-31 s" in viewer.screen
        await viewer.press("minus", "minus")
        assert "▏-124 s" in viewer.screen


async def test_a_replay_has_a_cursor_that_keys_move() -> None:
    async with watching(hung_job(), live=False, size=(100, 24)) as viewer:
        await viewer.press("t")
        assert "▼" in viewer.screen
        strips = [line for line in viewer.screen.splitlines() if "▏waits for ranks" in line]
        await viewer.press(*["left"] * 90)
        assert "HANG" not in viewer.screen.splitlines()[0]
        assert viewer.app.session.source.cursor_ns < 15 * SECOND
        # The strips still show the whole recording.
        assert (
            len([x for x in viewer.screen.splitlines() if "▏waits for ranks" in x])
            == len(strips)
            == 3
        )
