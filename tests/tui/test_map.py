"""The rank map: any number of ranks on one screen, and from it to the rank, by keys and mouse."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.state.statuses import status_of
from distwatch.tui.picture import take_picture
from distwatch.tui.rank_map import RankMapView
from distwatch.tui.views.map import arrange, draw_row
from distwatch.views.rank_map import RankMap, groupings, map_ranks
from tests.tui.driving import Viewer, watching
from tests.tui.scripted import hung_job, large_hang
from tests.tui.test_layout import job_of, of_plan


def statuses(ranks: int, odd: int, word: str = "frozen") -> list[RankStatus]:
    return [
        RankStatus(
            global_rank=rank,
            host=f"node{rank // 8:05}",
            word=word if rank == odd else "waiting",
            letter=status_of(word if rank == odd else "waiting").letter,
        )
        for rank in range(ranks)
    ]


def drawn(found: list[RankStatus], width: int, height: int) -> list[str]:
    """The map as text, in the largest tiles that fit."""

    def mapping(share: int) -> RankMap:
        return map_ranks(found, frozenset(), share=share)

    sheet = arrange(mapping, len(found), width, height)
    return [draw_row(row, sheet.level, None, width).plain for row in sheet.rows]


@pytest.mark.parametrize("ranks", [1, 4, 8, 64, 1024, 10_000, 100_000])
@pytest.mark.parametrize(("width", "height"), [(78, 12), (94, 34), (198, 40)])
def test_any_number_of_ranks_fits_and_the_odd_one_is_seen(
    ranks: int, width: int, height: int
) -> None:
    rows = drawn(statuses(ranks, odd=ranks * 3 // 7), width, height)
    assert len(rows) <= height
    assert all(len(row) == width for row in rows)
    # Neither titles nor numbers have capital letters.
    assert "".join(rows).count("F") == 1


def test_hosts_are_blocks_and_large_tiles_have_numbers() -> None:
    rows = drawn(statuses(16, odd=5), 94, 34)
    assert (rows[0].split(), rows[3].split()) == (["node00000"], ["node00001"])
    assert rows[1].split()[:4] == ["0", "w", "1", "w"]
    assert "5 F" in rows[1]


def test_a_tile_of_several_ranks_has_the_worst_and_a_blamed_one_wins() -> None:
    found = statuses(8, odd=3)
    (block,) = map_ranks(found, frozenset(), share=4).blocks
    assert [cell.word for cell in block.cells] == ["frozen", "waiting"]
    assert block.cells[0].title == "ranks 0-3: the worst is frozen"
    (block,) = map_ranks(found, frozenset({6}), share=8).blocks
    (cell,) = block.cells
    assert (cell.word, cell.blamed) == ("waiting", True)


def test_counts_come_worst_first() -> None:
    assert map_ranks(statuses(8, odd=3), frozenset()).counts == (("frozen", 1), ("waiting", 7))


def test_ranks_group_by_an_axis_of_the_layout() -> None:
    picture = take_picture(job_of(of_plan(8, tensor=2, pipeline=2)).state, "cube")
    assert groupings(picture.layouts) == ("host", "tp", "dp", "pp")
    by_tp = map_ranks(picture.rank_statuses, picture.culprits, picture.layouts, "tp")
    assert [block.title for block in by_tp.blocks] == ["tp 0", "tp 1", "tp 2", "tp 3"]
    assert [cell.global_ranks for cell in by_tp.blocks[2].cells] == [(4,), (5,)]
    assert map_ranks(picture.rank_statuses, frozenset(), (), "tp").by == "host"


def rank_at(viewer: Viewer) -> int | None:
    return viewer.app.query_one(RankMapView).global_rank


async def test_many_ranks_open_on_the_map_at_the_blamed_one() -> None:
    async with watching(large_hang(1024), size=(160, 44)) as viewer:
        assert "[9 Map]" in viewer.screen
        assert rank_at(viewer) == 438
        assert "rank 438" in viewer.screen
        assert "data_loader.py:41 in __getitem__" in viewer.screen
        await viewer.press("enter")
        assert "detail · Esc" in viewer.screen


async def test_a_key_that_comes_before_the_verdict_is_drawn_finds_the_culprit_selected() -> None:
    async with watching(large_hang(1024), size=(160, 44), until=20.0) as viewer:
        assert rank_at(viewer) == 0
        viewer.source.reach(62.0)
        await viewer.app.poll_once()
        viewer.app.action_view("timeline")
        await viewer.pilot.pause()
        assert "rank 438  r running" in viewer.screen


async def test_a_rank_stays_selected_from_view_to_view() -> None:
    async with watching(hung_job(), size=(160, 44)) as viewer:
        await viewer.press("1", "end", "home", "down", "m")
        assert rank_at(viewer) == 1
        await viewer.press("right", "right", "t")
        assert "rank 3  w waiting" in viewer.screen


async def test_keys_move_over_the_tiles_zoom_and_group() -> None:
    async with watching(large_hang(64), size=(80, 24)) as viewer:
        await viewer.press("m", "home")
        assert rank_at(viewer) == 0
        await viewer.press("right", "l")
        assert rank_at(viewer) == 2
        await viewer.press("down")
        below = rank_at(viewer)
        assert below is not None
        assert below % 8 == 2
        await viewer.press("k", "h")
        assert rank_at(viewer) == 1
        await viewer.press("end")
        assert rank_at(viewer) == 63
        before = viewer.screen
        await viewer.press("plus")
        assert viewer.screen != before
        assert rank_at(viewer) == 63
        await viewer.press("minus", "minus", "minus", "minus", "minus")
        assert "ranks a tile, the worst counts" in viewer.screen


async def test_a_click_selects_a_tile_and_a_second_one_opens_it() -> None:
    async with watching(hung_job(), size=(160, 30)) as viewer:
        await viewer.press("m")
        widget = viewer.app.query_one(RankMapView)
        place = widget._sheet.rows[1].places[3]
        await viewer.pilot.click(RankMapView, offset=(place.start + 2, 3))
        assert rank_at(viewer) == 3
        assert "rank 3  w waiting" in viewer.screen
        await viewer.pilot.click(RankMapView, offset=(place.start + 2, 3))
        await viewer.pilot.pause()
        assert "detail · Esc" in viewer.screen


async def test_a_filter_leaves_only_its_ranks_on_the_map() -> None:
    async with watching(hung_job(), size=(120, 30)) as viewer:
        await viewer.press("m", "slash")
        await viewer.type("rank=1")
        await viewer.press("enter")
        assert "w waiting 1" in viewer.screen
        assert "(1 of 4)" in viewer.screen
        await viewer.press("c")
        assert rank_at(viewer) == 2
