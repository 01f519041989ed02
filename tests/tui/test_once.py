from __future__ import annotations

import pytest

from distwatch.state.model import RunState
from distwatch.tui.once import render_once
from tests.tui.scripted import failed_job, hung_job, large_job, state_of


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_of_text_fits_and_has_no_escapes(width: int) -> None:
    text = render_once(state_of(hung_job()), width, run_id="llama-ft")
    assert "\x1b" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert text.startswith("■ HANG  rank 2 waits")
    assert text.endswith("\n")
    assert "llama-ft · torchrun" in text


def test_colour_comes_only_when_asked_for() -> None:
    assert "\x1b[" in render_once(state_of(hung_job()), 80, color=True)


def test_every_rank_has_its_line_also_the_unseen() -> None:
    lines = render_once(state_of(failed_job()), 100).splitlines()
    assert any(line.split()[:3] == ["3", ".", "unobserved"] for line in lines)
    assert any(line.split()[:4] == ["▶", "1", "E", "failed"] for line in lines)


def test_nothing_seen_is_a_sentence() -> None:
    assert "waiting for the first process" in render_once(RunState(), 80)


def test_a_large_job_shows_the_worst_and_counts_the_rest() -> None:
    lines = render_once(state_of(large_job(1024)), 80).splitlines()
    assert lines[-1] == "… and 924 more ranks"
    assert "w waiting" in lines[5] + lines[6] + lines[7] + lines[8]
