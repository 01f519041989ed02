"""Who waits for whom, as a drawing: folded ranks, chains, circles."""

from __future__ import annotations

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.diagnosis.facts.waits import Bundle, Wait
from distwatch.state.model import RunState
from distwatch.tui.picture import take_picture
from distwatch.tui.views import waits
from distwatch.views.wait_drawing import MOST_BOXES, WaitDrawing, draw_waits
from tests.tui.driving import watching
from tests.tui.scripted import healthy_job, hung_job, large_hang, state_of


def bundle(what: str, waiters: dict[int, float], *awaited: int) -> Bundle:
    return Bundle(
        kind="p2p",
        what=what,
        waiters={rank: Wait(waited_s=waited_s) for rank, waited_s in waiters.items()},
        awaited=awaited,
    )


def drawing(world: int, *bundles: Bundle, culprits: frozenset[int] = frozenset()) -> WaitDrawing:
    statuses = [
        RankStatus(global_rank=rank, word="waiting", where=f"train.py:{rank}")
        for rank in range(world)
    ]
    return draw_waits(Job(RunState(), ()), WaitGraph(bundles), statuses, culprits)


def texts(drawn: WaitDrawing, width: int = 80) -> list[str]:
    shown = take_picture(state_of(healthy_job()), "waits")
    vars(shown)["waits"] = drawn
    lines = [line.draw(width).plain for line in waits.lines(shown)]
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_ranks_that_do_the_same_are_one_box() -> None:
    hung = take_picture(state_of(large_hang(64)), "hung")
    first, second = hung.waits.boxes
    assert first.global_ranks == (27,)
    assert first.blamed
    assert len(second.global_ranks) == 63
    (link,) = hung.waits.links
    assert (link.waiter, link.awaited, link.overdue) == (1, 0, True)
    assert link.what == "all_reduce #4 of default_pg"


def test_a_chain_hangs_below_its_end() -> None:
    drawn = drawing(3, bundle("recv from 1", {0: 9.0}, 1), bundle("recv from 2", {1: 8.0}, 2))
    assert [(box.global_ranks, box.depth) for box in drawn.boxes] == [
        ((2,), 0),
        ((1,), 1),
        ((0,), 2),
    ]
    shown = texts(drawn)
    order = [line.split("─")[1].split()[:2] for line in shown if "╭" in line]
    assert order == [["rank", "2"], ["rank", "1"], ["rank", "0"]]
    assert any("▲ recv from 2 · 8.0 s" in line for line in shown)


def test_a_circle_ends_where_it_began() -> None:
    drawn = drawing(2, bundle("recv from 1", {0: 9.0}, 1), bundle("recv from 0", {1: 9.0}, 0))
    shown = texts(drawn)
    assert sum("╭" in line for line in shown) == 2
    assert shown[-1].strip() == "↺ rank 0, shown above"


def test_who_waits_for_several_is_drawn_once() -> None:
    drawn = drawing(3, bundle("barrier #1", {0: 5.0}, 1, 2))
    assert len(drawn.links) == 2
    shown = texts(drawn)
    assert sum("╭─ rank 0" in line for line in shown) == 1
    assert sum("↺ rank 0" in line for line in shown) == 1


def test_beyond_a_number_of_boxes_the_rest_is_counted() -> None:
    pairs = [bundle(f"recv from {rank + 1}", {rank: 1.0}, rank + 1) for rank in range(0, 200, 2)]
    drawn = drawing(201, *pairs)
    assert len(drawn.boxes) == MOST_BOXES
    assert drawn.boxes_left_out == 200 - MOST_BOXES
    assert f"… {200 - MOST_BOXES} more groups of ranks" in texts(drawn)


def test_nobody_waits_in_a_healthy_job() -> None:
    picture = take_picture(state_of(healthy_job()), "healthy")
    assert picture.waits == WaitDrawing()
    assert waits.lines(picture) == []


async def test_enter_on_a_box_opens_its_first_rank() -> None:
    async with watching(hung_job(), size=(100, 60)) as viewer:
        await viewer.press("w", "enter")
        assert "▶ blamed by the verdict" in viewer.screen
