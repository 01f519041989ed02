"""The view of model loads: its cells, its lines, and what Enter and the filter make of them."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.loads import LoadArguments, LoadProgress, Outstanding, Placement
from distwatch.tui import load_cells
from distwatch.tui.filters import parse_filter
from distwatch.tui.once import render_once
from distwatch.tui.picture import Picture, freeze, take_picture
from distwatch.tui.views import loading
from distwatch.tui.views.detail import detail
from distwatch.tui.views.line import subject_of, visible
from distwatch.views.load_groups import LoadGroup
from distwatch.views.load_text import outcome, plain
from tests.diagnosis.recorded_loads import LoadingJob, loading_job, many_loads, spread_placement
from tests.tui.driving import watching
from tests.tui.scripted import healthy_job, hung_job, state_of

STILL = loading.FIRST_ORDER


@pytest.fixture(scope="module")
def picture() -> Picture:
    blamed = Finding(
        code="load.stalled", severity="hang", culprit_ranks=(0,), summary="s", advice="a", confidence=1.0
    )  # fmt: skip
    picture = take_picture(loading_job().state, "loads")
    return msgspec.structs.replace(picture, findings=(blamed,))


def block(picture: Picture, subject: str, width: int = 118) -> str:
    """All lines about one load."""
    lines = [line for line in loading.lines(picture, STILL) if subject_of(line.key) == subject]
    return "\n".join(line.draw(width).plain.rstrip() for line in lines)


def status(**known: object) -> LoadStatus:
    said = {"global_rank": 0, "step": 1, "call": "from_pretrained", "ended": False, **known}
    return LoadStatus(arguments=LoadArguments(checkpoint="m"), **said)  # type: ignore[arg-type]


def alone(load: LoadStatus, quickest_s: float | None = None) -> LoadGroup:
    quickest_s = load.took_s if quickest_s is None else quickest_s
    return LoadGroup(global_ranks=(0,), load=load, quickest_s=quickest_s)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (status(took_s=58, still_s=42), "moved 42 s ago, began 58 s ago"),
        (
            status(took_s=58, still_s=12, cut_off=True),
            "✗ its process ended after 58 s, 12 s after it last moved",
        ),
        (status(took_s=58, ended=True), "✓ loaded in 58 s"),
        (status(took_s=58, ended=True, error="OSError: no"), "✗ failed after 58 s"),
    ],
)
def test_an_outcome_is_a_clause(load: LoadStatus, text: str) -> None:
    assert plain(outcome(alone(load))) == text


def test_several_loads_say_what_the_quickest_and_the_slowest_took() -> None:
    group = alone(status(took_s=23.0, ended=True), quickest_s=21.0)
    assert plain(outcome(group)) == "✓ loaded in 21 s to 23 s"


def test_what_no_pulse_said_is_not_a_zero() -> None:
    load = status(parameters=3, parameters_total=12, bytes=1536)
    assert load_cells.tensors_cell(load, 60).plain == "███░░░░░░░░░ 3 of 12 · 1.5 KiB of – · –"
    told = status(parameters=3, parameters_total=12, bytes=1536, bytes_per_s=0.0)
    assert load_cells.tensors_cell(told, 60).plain.endswith("· 0 B/s")
    assert load_cells.tensors_cell(status(), 60).plain == "nothing to count yet"


def test_files_that_are_fetched_are_told_by_their_bytes() -> None:
    load = status(bytes=1 << 20, bytes_total=4 << 20, bytes_per_s=1024.0)
    told = load_cells.tensors_cell(load, 60).plain
    assert told == "███░░░░░░░░░ 1.0 MiB of 4.0 MiB · 1.0 KiB/s"
    # How many files there are says nothing about how many bytes.
    counted = status(bytes=1 << 20, done=1, total=2)
    assert load_cells.tensors_cell(counted, 60).plain.startswith("············ 1.0 MiB of –")


def test_a_wait_keeps_both_ends_of_its_address_and_not_all_of_an_error() -> None:
    waits = Outstanding(
        waiting="request", what="GET https://hub.example/org/model/resolve/main/model-3.safetensors",
        since_ns=0, attempts=2, last_error="ConnectTimeout: " + "very long " * 20,
    )  # fmt: skip
    told = load_cells.wait_cell(status(now_ns=5_000_000_000), waits, 100).plain
    assert told.startswith("a request for 5.0 s, attempt 2 after ConnectTimeout: very long")
    assert "…  GET h" in told
    assert told.endswith("model-3.safetensors")
    assert len(told) <= 100


def test_who_is_blamed_now_is_not_marked_at_a_load_that_it_came_through(picture: Picture) -> None:
    job = loading_job()
    job.load(3, 59.0, step=70)
    blamed = msgspec.structs.replace(picture.findings[0], culprit_ranks=(3, 7))
    shown = take_picture(job.state, "r")
    shown = msgspec.structs.replace(shown, findings=(blamed,))
    assert block(shown, "load:3:70").startswith("▶ rank 3 ")
    assert block(shown, "load:3:50").startswith("ranks 3-5 ")
    assert block(shown, "load:7:50").startswith("▶ rank 7 ")


def test_a_bar_without_a_total_is_dots() -> None:
    assert load_cells.bar_cell(None, 4).plain == "····"
    assert load_cells.bar_cell(1.5, 4).plain == "████"


def test_the_end_of_a_timeline_tells_open_from_cut_off_from_ended(picture: Picture) -> None:
    ends = {
        group.global_ranks[0]: load_cells.timeline_cell(group.load, 40).plain[-1]
        for group in picture.loads
    }
    assert ends == {0: "▸", 1: "▸", 2: "▸", 3: "│", 6: "│", 7: "│"}
    job = loading_job()
    job.exit(0, 61.0, signal=9)
    shown = block(take_picture(job.state, "r"), "load:0:50")
    assert shown.splitlines()[1].endswith("✗")
    assert "its process ended after 59 s, 43 s after it last moved" in shown
    assert "  was in   a file for 43 s" in shown


def test_a_load_that_waits_shows_phase_files_tensors_and_the_file(picture: Picture) -> None:
    shown = block(picture, "load:0:50").splitlines()
    assert shown[0].startswith("▶ rank 0  from_pretrained  /models/llama")
    assert shown[0].endswith("moved 42 s ago, began 58 s ago")
    assert "│4 shards┄┄┄" in shown[1]
    assert shown[2].split()[:5] == ["4", "shards", "51", "s", "so"]
    assert shown[3].endswith("░ shards 3 of 7  model-00003-of-00007.safetensors")
    assert shown[4].endswith("░ 120 of 291 · 6.0 GiB of 16.0 GiB · 0 B/s")
    assert shown[5] == "  waits in a file for 42 s  /models/llama/model-00003-of-00007.safetensors"


def test_a_load_at_the_hub_shows_attempts_and_what_the_last_one_ended_with(
    picture: Picture,
) -> None:
    shown = block(picture, "load:1:50", 160)
    assert "  waits in a lock file for 30 s  /hub/.locks/models--org--model/5f.lock" in shown
    asks = (
        "a request for 18 s, attempt 3 after ConnectTimeout: timed out  HEAD https://hub.example/"
    )
    assert asks in shown


def test_a_failed_load_shows_its_error_and_the_phase_it_was_in(picture: Picture) -> None:
    shown = block(picture, "load:6:50")
    assert "  error    SafetensorError: incomplete metadata, file not fully covered" in shown
    assert "✗│" in shown
    assert "4 shards 3.0 s ✗ ·" in shown
    assert "file 4 of 7" in shown


def test_a_placed_model_shows_each_device_offload_meta_and_notes(picture: Picture) -> None:
    shown = block(picture, "load:7:50")
    for part in (
        "  cuda:0   │embed_tokens─│model.layers.0-9──", "│n│  6.0 GiB, 56 tensors", "  meta     │lm_head",
        "  offload  1.0 GiB in ram · 1.0 GiB on disk in /scratch/offload",
        "  on meta  ✗ 1 parameter that nothing will load: lm_head.weight",
        "bfloat16 20.0 GiB · float32 2.0 GiB · 1 tied name · generation config default",
        "  note     no pad token",
    ):  # fmt: skip
        assert part in shown, part


def test_loads_that_came_out_alike_are_one_block_of_all_their_ranks(picture: Picture) -> None:
    assert block(picture, "load:3:50").startswith("ranks 3-5  from_pretrained  /models/llama")


@pytest.mark.parametrize("width", [38, 60, 78, 118, 238])
def test_every_line_fits_its_width(picture: Picture, width: int) -> None:
    for line in loading.lines(picture, STILL):
        assert line.draw(width).cell_len <= width
    assert loading.heading(picture, STILL, width).cell_len == width


def test_the_heading_counts_ranks_by_how_their_loads_stand(picture: Picture) -> None:
    told = loading.heading(picture, STILL, 118).plain.rstrip()
    assert told == "3 under way · 1 failed · 4 ended · longest still first"


def first_ranks(picture: Picture, order: loading.Order) -> list[int]:
    subjects = [subject_of(line.key) for line in loading.lines(picture, order)]
    return [int(subject.split(":")[1]) for subject in dict.fromkeys(subjects)]


def test_the_orders_go_round_from_the_longest_still(picture: Picture) -> None:
    by_rank = STILL.following(loading.SORTED_BY)
    by_share = by_rank.following(loading.SORTED_BY)
    assert by_share.following(loading.SORTED_BY) == STILL
    assert first_ranks(picture, STILL) == [1, 0, 2, 6, 3, 7]
    assert first_ranks(picture, by_rank) == [0, 1, 2, 3, 6, 7]
    assert first_ranks(picture, by_rank._replace(reverse=True)) == [7, 6, 3, 2, 1, 0]
    assert first_ranks(picture, by_share)[:3] == [0, 6, 2]


def test_a_filter_by_words_keeps_whole_blocks_and_by_ranks_those_of_them(picture: Picture) -> None:
    lines = loading.lines(picture, STILL)
    found = visible(lines, parse_filter("5f.lock"), picture)
    assert [subject_of(line.key) for line in found] == ["load:1:50"] * len(found)
    assert found[0].draw(100).plain.startswith("rank 1")
    of_four = visible(lines, parse_filter("rank=4"), picture)
    assert {subject_of(line.key) for line in of_four} == {"load:3:50"}
    assert visible(lines, parse_filter("no-such-word"), picture) == []


def test_every_line_opens_a_detail_that_tells_all(picture: Picture) -> None:
    for line in loading.lines(picture, STILL):
        assert "no longer in the run's state" not in detail(picture, line.key).plain, line.key
    spread = detail(picture, "load:7:50").plain
    for part in ("device_map      auto", "10.0 GiB  model.layers.0-9", "ram: 1.0 GiB, 9 tensors"):
        assert part in spread, part
    assert "phases, of the slowest: rank 5" in detail(picture, "load:3:50").plain
    assert "attempt 3 after ConnectTimeout: timed out" in detail(picture, "load:1:50").plain
    assert "no longer in the run's state" in detail(picture, "load:7:99").plain


def test_a_map_longer_than_what_was_kept_says_so() -> None:
    job = LoadingJob(1)
    job.load(0, 1.0)
    job.place(
        0, 2.0, Placement(model_class="M", modules_left_out=40, leaked=("a",), leaked_count=9)
    )
    picture = take_picture(job.state, "r")
    assert "has 40 more entries" in detail(picture, "load:0:50").plain
    assert "9 parameters that nothing will load: a, …" in block(picture, "load:0:50")


def test_a_frozen_picture_keeps_its_loads() -> None:
    job = LoadingJob(1)
    job.load(0, 1.0)
    still = freeze(take_picture(job.state, "r"))
    job.place(0, 2.0, spread_placement())
    kept = still.state.processes[job.key(0)].loads[50]
    assert kept.placement is None


def test_text_of_several_lines_stays_on_its_line() -> None:
    job = LoadingJob(1)
    job.load(0, 1.0)
    job.say(0, 2.0, ev.StepEnded(step=50, error="OSError: first\nsecond"))
    waits = job.outstanding("file", "/a\nb", 1.0, last_error="x\ny")
    job.load(0, 3.0, step=60)
    job.pulse(0, at=4.0, loads=(LoadProgress(step=60, outstanding=(waits,)),))
    for line in loading.lines(take_picture(job.state, "r"), STILL):
        assert "\n" not in line.draw(100).plain


def test_half_a_thousand_loads_are_a_block_each_and_the_ended_are_one() -> None:
    picture = take_picture(many_loads(512, 256).state, "large")
    lines = loading.lines(picture, STILL)
    assert len({subject_of(line.key) for line in lines}) == 257
    assert len(lines) < 2000
    assert lines[0].draw(80).plain.split("rank ")[1].startswith("256")
    assert "ranks 0-255" in lines[-6].draw(80).plain


async def test_seven_opens_it_s_sorts_it_and_enter_tells_all() -> None:
    async with watching(loading_job(), size=(120, 40)) as viewer:
        await viewer.press("7")
        assert "3 under way" in viewer.screen
        assert "│4 shards┄┄" in viewer.screen
        await viewer.press("s")
        assert "by rank" in viewer.screen
        await viewer.press("S")
        assert "by rank, reversed" in viewer.screen
        await viewer.press("enter")
        assert "attempt 3" in viewer.screen
        await viewer.press("escape", "1")
        assert "▼RANK" in viewer.screen


async def test_without_loads_it_says_what_would_show_them() -> None:
    async with watching(healthy_job()) as viewer:
        await viewer.press("7")
        assert "no model load seen" in viewer.screen
        assert "from_pretrained" in viewer.screen


async def test_without_colour_bars_and_marks_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with watching(loading_job(), size=(80, 50)) as viewer:
        await viewer.press("7")
        for part in ("│4 shards┄┄", "✗ failed", "model.layers.0-9", "▸", "███"):
            assert part in viewer.screen, part


def test_the_screen_of_text_says_where_a_load_is() -> None:
    text = render_once(loading_job().state, 100)
    assert "shards 3 of 7" in text
    assert "loading" in text
    assert "loading" not in render_once(state_of(hung_job()), 100)
