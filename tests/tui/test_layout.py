"""The layout view: each rank in its place, and the groups of each axis."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.preflight.plan import Plan
from distwatch.preflight.rank_groups import axes_of
from distwatch.report.document import build_report
from distwatch.report.html import render_html
from distwatch.report.markdown import render_markdown
from distwatch.state.layouts import Layout
from distwatch.tui.picture import Picture, take_picture
from distwatch.tui.views import layout
from distwatch.tui.views.detail import detail
from distwatch.views.layout_grid import layout_grids
from tests.diagnosis.recorded import RecordedJob
from tests.diagnosis.recorded_loads import LoadingJob
from tests.diagnosis.test_frameworks import hold, later

AXES = {"tensor": "tp", "pipeline": "pp", "context": "cp", "data": "dp", "expert": "ep"}


def of_plan(world: int, **sizes: int) -> Layout:
    plan = Plan(**sizes)
    return {
        AXES[axis.name]: tuple(tuple(group) for group in axis.groups())
        for axis in axes_of(plan, world)
        if axis.name in AXES
    }


def job_of(megatron: Layout, sglang: Layout | None = None) -> LoadingJob:
    """Eight ranks, of which rank 5 was killed."""
    job = LoadingJob(8)
    job.initialize(*range(8))
    for rank in range(8):
        hold(job, rank, 2.0, megatron)
        if sglang is not None:
            hold(job, rank, 2.0, sglang, "sglang")
    later(job, 9.0)
    job.exit(5, 10.0, signal=9)
    job.tick(12.0)
    return job


@pytest.fixture(scope="module")
def cube() -> Picture:
    return take_picture(job_of(of_plan(8, tensor=2, pipeline=2)).state, "cube")


def texts(picture: Picture, width: int = 100) -> list[str]:
    return [line.draw(width).plain.rstrip() for line in layout.lines(picture)]


def test_each_rank_stands_in_its_place_with_its_letter(cube: Picture) -> None:
    title, columns, *rows = texts(cube)
    assert title == "megatron  dp 2 × pp 2 × tp 2  8 ranks"
    assert columns.split() == ["tp", "0", "tp", "1"]
    assert [row.split() for row in rows[:4]] == [
        ["dp", "0", "·", "pp", "0", "0", "r", "1", "r"],
        ["dp", "0", "·", "pp", "1", "4", "r", "▶5", "K"],
        ["dp", "1", "·", "pp", "0", "2", "r", "3", "r"],
        ["dp", "1", "·", "pp", "1", "6", "r", "7", "r"],
    ]
    assert [row.split()[0] for row in rows[4:7]] == ["tp", "dp", "pp"]


def test_the_letter_has_the_colour_of_its_state(cube: Picture) -> None:
    line = next(line for line in layout.lines(cube) if line.ranks == (4, 5))
    text = line.draw(100)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert "#7fb685" in styles[" r "]
    assert "#e06c75" in styles[" K "]


@pytest.mark.parametrize("width", [30, 60, 120])
def test_lines_fill_the_width(cube: Picture, width: int) -> None:
    drawn = [line.draw(width) for line in layout.lines(cube) if line.draw(width).plain]
    assert {text.cell_len for text in drawn} == {width}


def test_enter_on_an_axis_shows_its_groups(cube: Picture) -> None:
    keys = [line.key for line in layout.lines(cube) if line.key.startswith("axis:")]
    shown = detail(cube, next(key for key in keys if key.startswith("axis:pp"))).plain
    assert "megatron · axis pp" in shown
    assert "ranks 1,5" in shown
    assert "▶5 K" in shown


def test_the_detail_of_a_rank_says_its_place(cube: Picture) -> None:
    assert (
        "pipeline stage 2 of 2, tensor rank 1 of 2, data rank 0 of 2 in megatron"
        in detail(cube, "rank:5").plain
    )


def test_two_frameworks_of_one_job_are_shown_both() -> None:
    picture = take_picture(job_of(of_plan(8, tensor=4), of_plan(8, tensor=2)).state, "two")
    titles = [line for line in texts(picture) if "8 ranks" in line]
    assert titles == ["megatron  dp 2 × tp 4  8 ranks", "sglang  dp 4 × tp 2  8 ranks"]


def test_context_goes_across_and_experts_have_their_axis(cube: Picture) -> None:
    state = job_of(of_plan(8, tensor=2, context=2, expert=2)).state
    (grid,) = layout_grids(state)
    assert grid.shape == "dp 2 × cp 2 × tp 2"
    assert grid.columns == ("cp 0 · tp 0", "cp 0 · tp 1", "cp 1 · tp 0", "cp 1 · tp 1")
    assert grid.axes["ep"] == ((0, 2), (1, 3), (4, 6), (5, 7))


def test_a_mesh_that_no_framework_stands_for_is_a_grid_of_its_own() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in range(4):
        job.mesh(rank, 2.0, {"replicate": 2, "shard": 2})
    (grid,) = layout_grids(later(job).state)
    assert grid.name == "device mesh 1 (replicate 2 × shard 2)"
    assert [row.cells for row in grid.rows] == [((0,), (1,)), ((2,), (3,))]


def test_the_report_has_the_grid_in_every_format(cube: Picture) -> None:
    report = build_report(cube.state, diagnose(cube.state), "cube")
    (grid,) = report.layouts
    assert grid.rows[1].cells == ((4,), (5,))
    markdown = render_markdown(report)
    assert "### Layout: megatron, dp 2 × pp 2 × tp 2" in markdown
    assert "dp 0 · pp 1  4 r   5 K" in markdown
    html = render_html(report)
    assert 'title="rank 5: killed">5 K</span>' in html
    assert "rank bad blamed" in html


def test_ranks_of_which_a_journal_says_nothing_are_not_made_up() -> None:
    job = RecordedJob(4)
    job.initialize(0, 1)
    for rank in (0, 1):
        hold(job, rank, 2.0, of_plan(4, tensor=2))
    (grid,) = layout_grids(later(job).state)
    assert grid.unplaced == (2, 3)
    assert grid.rows[0].cells == ((0,), (1,))
