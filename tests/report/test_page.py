"""The report's page: its drawings, its size, and in a real browser its map, search and filter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.report.document import Report, build_report
from distwatch.report.html import render_html
from distwatch.report.markdown import render_markdown
from distwatch.report.stack_page import tree_parts
from distwatch.report.wait_layout import place_boxes
from distwatch.views.stack_tree import StackNode
from tests.support.browser import Seen, browsing
from tests.tui.scripted import Script, healthy_job, hung_job, large_hang, state_of
from tests.tui.test_waits import bundle, drawing

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("browser")


def report_on(script: Script) -> Report:
    state = state_of(script)
    return build_report(state, diagnose(state), "run-1")


def test_the_first_screen_has_the_places_the_drawing_the_map_and_the_strips() -> None:
    text = render_html(report_on(hung_job()))
    order = [
        text.index(part)
        for part in ("<h1>rank 2 waits", "Where the ranks are", "Who waits for whom", "The last 62 s", "All ranks",
                     "Findings</h2>")
    ]  # fmt: skip
    assert order == sorted(order)
    assert text.count('<a href="#r') == 4
    assert '<a href="#r2" class="blamed">2 r</a>' in text
    assert 'data-ranks="2"><b>▶ rank 2</b>' in text


def test_a_page_of_a_thousand_ranks_is_small_and_folds_them() -> None:
    text = render_html(report_on(large_hang(1024)))
    assert len(text.encode()) < 2_000_000
    assert text.count('<a href="#r') == 1024
    assert text.count('<g class="box') == 2
    assert text.count('class="strip" data-ranks') == 1
    assert text.count('class="strip blamed" data-ranks') == 1
    assert "128 hosts: node000, node001, node002, …" in text


def test_a_healthy_job_has_no_drawing_of_waits() -> None:
    text = render_html(report_on(healthy_job()))
    assert "Who waits for whom" not in text
    assert "All ranks" in text


@pytest.mark.parametrize("ranks", [4, 1024])
def test_the_first_lines_of_markdown_tell_it_all(ranks: int) -> None:
    script = hung_job() if ranks == 4 else large_hang(ranks)
    lines = render_markdown(report_on(script)).splitlines()
    first = "\n".join(lines[:40])
    culprit = 2 if ranks == 4 else ranks * 3 // 7
    for part in (
        f"hang: rank {culprit} waits for data", "**What to do:**", f"▶ rank {culprit}, running",
        "data_loader.py:41 in __getitem__", "in all_reduce #", "past the deadline", "train.py:63 in train_step",
        "wwwwwwww", "w waits for ranks", "`process.data_stall` (root", "`collective.rank_missing` (symptom",
    ):  # fmt: skip
        assert part in first, part
    if ranks > 32:
        assert f"<details><summary>Ranks ({ranks})</summary>" in lines


def test_a_circle_goes_back_below_its_boxes() -> None:
    drawn = drawing(2, bundle("recv from 1", {0: 9.0}, 1), bundle("recv from 0", {1: 9.0}, 0))
    layout = place_boxes(drawn)
    assert sorted((placed.x, placed.y) for placed in layout.boxes) == [(4, 4), (424, 4)]
    assert [" Q " in placed.path for placed in layout.links].count(True) == 1
    assert layout.height > 100


def test_boxes_without_room_are_counted() -> None:
    pairs = [bundle(f"recv from {rank + 1}", {rank: 1.0}, rank + 1) for rank in range(0, 200, 2)]
    layout = place_boxes(drawing(201, *pairs))
    assert len(layout.boxes) + layout.boxes_left_out == 200


def test_a_stack_deeper_than_pythons_recursion_closes_what_it_opens() -> None:
    root = node = StackNode(function="f0", file="deep.py", line=1, global_ranks=(0, 1))
    for depth in range(3000):
        inner = StackNode(function=f"f{depth + 1}", file="deep.py", line=1, global_ranks=(0, 1))
        other = StackNode(function="other", file="deep.py", line=2, global_ranks=(1,))
        node.children = [inner, other]
        node = inner
    parts = list(tree_parts([root]))
    assert sum(bool(part.frames) for part in parts) * 2 == len(parts) == 2 * 6001


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Seen, str]]:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(report_on(large_hang(300))), encoding="utf-8")
    with browsing() as (page, seen):
        yield page, seen, path.as_uri()


def test_it_opens_without_an_error_or_a_request(opened: tuple[Page, Seen, str]) -> None:
    page, seen, address = opened
    page.goto(address)
    assert (seen.complaints, seen.requests) == ([], [address])
    assert page.locator("h1").bounding_box()["y"] < 120  # type: ignore[index]
    assert page.locator(".map").bounding_box()["y"] < 900  # type: ignore[index]


def test_a_tile_leads_to_its_rank(opened: tuple[Page, Seen, str]) -> None:
    page, _, address = opened
    page.goto(address)
    assert not page.locator("#r128").is_visible()  # of so many ranks the table is folded
    page.locator('.map a[href="#r128"]').click()
    page.locator("#r128").wait_for(state="visible")
    assert "data_loader.py:41" in page.locator("#r128").inner_text()
    assert page.locator('.map a[href="#r5"]').get_attribute("title").startswith("rank 5 · node000")  # type: ignore[union-attr]


def test_stacks_are_searched_and_ranks_filtered(opened: tuple[Page, Seen, str]) -> None:
    page, seen, address = opened
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("getitem")
    assert page.locator("#hits").inner_text() == "1 frame"
    assert page.locator(".stacks .hit").is_visible()
    assert not page.get_by_text("all_reduce torch", exact=False).first.is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#search").input_value() == ""
    page.locator("#ranks").fill("128")
    assert page.locator(".map a:not(.off)").count() == 1
    assert page.locator(".strip[data-ranks]:visible").count() == 1
    assert not page.get_by_text("train_step").last.is_visible()
    page.locator("#ranks").fill("nonsense")
    assert (
        page.locator("#ranks").evaluate("field => field.validationMessage")
        == "write 3, 0-3 or 0-3,7"
    )
    assert seen.complaints == []


def test_keys_go_over_the_tiles(opened: tuple[Page, Seen, str]) -> None:
    page, _, address = opened
    page.goto(address)
    page.locator('.map a[href="#r7"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.hash") == "#r8"


def test_it_prints_whole_and_has_a_dark_form(opened: tuple[Page, Seen, str]) -> None:
    page, _, address = opened
    page.goto(address)
    page.emulate_media(color_scheme="dark")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 40
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#r128").is_visible()
    assert not page.locator(".tools").is_visible()
    page.emulate_media(media="screen")
