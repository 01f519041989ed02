from __future__ import annotations

import pytest
from rich.text import Text

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.statuses import LETTERS
from distwatch.tui import cells
from distwatch.tui.styles import SEVERITIES, STATES


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42.2, "42 s"),
        (240.0, "4 min"),
        (9000.0, "2.5 h"),
    ],
)
def test_an_age_reads_as_people_say_it(seconds: float | None, shown: str) -> None:
    assert cells.format_age(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (500 << 20, "500 MiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_bytes_have_a_unit(count: int | None, shown: str) -> None:
    assert cells.format_bytes(count) == shown


def test_what_was_not_observed_is_never_a_zero() -> None:
    unseen = RankStatus(global_rank=3)
    for cell in (cells.since_cell, cells.heartbeat_cell, cells.doing_cell, cells.where_cell):
        assert cell(unseen).plain == "–"
    assert cells.share_cell(None, None).plain == "– of –"


@pytest.mark.parametrize("word", LETTERS)
def test_a_state_is_a_letter_and_a_word_beside_its_colour(word: str) -> None:
    cell = cells.state_cell(RankStatus(global_rank=0, word=word, letter=LETTERS[word]))
    assert cell.plain == f"{LETTERS[word]} {word}"
    assert word in STATES


def test_letters_and_glyphs_tell_apart_what_colours_do() -> None:
    assert len(set(LETTERS.values())) == len(LETTERS)
    assert {SEVERITIES[word][0] for word in ("crash", "hang", "warning", "info")} == set("✗■▲●")


def test_a_culprit_is_marked_without_colour() -> None:
    assert cells.rank_cell(2, culprit=True).plain == "▶    2"
    assert cells.rank_cell(2, culprit=False).plain == "     2"


def test_a_share_shows_its_numbers() -> None:
    assert cells.share_cell(14 << 30, 16 << 30).plain == "█████████░ 14.0 GiB of 16.0 GiB (88%)"


@pytest.mark.parametrize("width", [1, 5, 12, 40])
def test_fitting_gives_exactly_that_width_also_for_wide_characters(width: int) -> None:
    for text in (
        "",
        "short",
        "a rather long line of text that must be cut",
        "模型加载模型加载模型加载",
    ):
        assert cells.fit(Text(text), width).cell_len == width
        assert cells.fit(Text(text), width, right=True).cell_len == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("/models/llama", 20, "/models/llama"),
        ("http://hub.example/org/model/file-3", 20, "http:…g/model/file-3"),
        ("http://hub.example/org/model/file-3", 16, "http…odel/file-3"),
        ("模型加载模型加载模型加载", 12, "模…模型加载"),
    ],
)
def test_a_path_keeps_both_ends(text: str, width: int, shown: str) -> None:
    clipped = cells.clip_middle(text, width)
    assert clipped == shown
    assert Text(clipped).cell_len <= width


def test_dots_stand_between_parts_only() -> None:
    assert cells.dotted([Text("a"), Text("b")]).plain == "a · b"
    assert cells.dotted([]).plain == ""
