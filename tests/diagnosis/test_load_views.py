"""What views show of loads: one line for those that came out alike, bars to scale."""

from __future__ import annotations

import itertools

import pytest

from distwatch.diagnosis.facts.loads import LoadStatus, loads_of
from distwatch.state.loads import DeviceBytes, ModuleDevice, Placement
from distwatch.views.load_groups import LoadGroup, group_loads
from distwatch.views.load_timeline import (
    Span,
    device_bars,
    device_pieces,
    divide,
    module_label,
    spans_of,
    timeline_pieces,
)
from tests.diagnosis.recorded_loads import (
    FILE,
    LoadingJob,
    loading_job,
    many_loads,
    spread_placement,
)


@pytest.fixture(scope="module")
def loads() -> dict[int, LoadStatus]:
    return {load.global_rank: load for load in loads_of(loading_job().state)}


def grouped(job: LoadingJob) -> list[LoadGroup]:
    return group_loads(loads_of(job.state))


def test_loads_under_way_stand_alone_longest_still_first_then_failed_then_ended() -> None:
    assert [group.global_ranks for group in grouped(loading_job())] == [
        (1,), (0,), (2,), (6,), (3, 4, 5), (7,)
    ]  # fmt: skip


def test_ended_loads_that_came_out_alike_are_told_by_the_slowest() -> None:
    (group,) = (group for group in grouped(loading_job()) if len(group.global_ranks) > 1)
    assert (group.load.global_rank, group.load.took_s, group.quickest_s) == (5, 23.0, 21.0)


def test_the_same_load_made_twice_by_one_rank_is_two_loads() -> None:
    job = LoadingJob(2)
    for rank in (0, 1):
        job.load(rank, 1.0)
        job.place(rank, 2.0, spread_placement())
    job.load(0, 3.0, step=60)
    job.place(0, 4.0, spread_placement(), step=60)
    assert [(group.global_ranks, group.load.step) for group in grouped(job)] == [
        ((0, 1), 50), ((0,), 60)
    ]  # fmt: skip


def test_loads_of_other_arguments_or_other_devices_are_not_alike() -> None:
    job = LoadingJob(3)
    for rank in range(3):
        job.load(rank, 1.0, dtype="float32" if rank == 1 else "")
        device = "cuda:1" if rank == 2 else "cuda:0"
        job.place(
            rank, 2.0, Placement(model_class="M", devices=(DeviceBytes(device=device, tensors=1),))
        )
    assert [group.global_ranks for group in grouped(job)] == [(0,), (1,), (2,)]


def test_a_large_job_is_one_group_of_its_ended_loads() -> None:
    groups = grouped(many_loads(512, 500))
    assert len(groups) == 13
    assert groups[-1].global_ranks == tuple(range(500))
    stills = [group.load.still_s for group in groups[:-1]]
    assert stills == sorted(stills, reverse=True)


def test_a_load_whose_process_ended_is_cut_off_and_stays_where_it_was() -> None:
    job = loading_job()
    job.exit(0, 61.0, signal=9)
    job.tick(90.0)
    (load,) = (load for load in loads_of(job.state) if load.global_rank == 0)
    assert (load.cut_off, load.under_way, load.ended) == (True, False, False)
    assert (load.done, load.total, load.file) == (3, 7, FILE)
    assert load.took_s == 59.0
    # One of the others has been still for longer since, and goes first nevertheless.
    assert [group.load.global_rank for group in grouped(job)][:3] == [1, 2, 0]


def test_a_failed_load_says_how_far_it_got(loads: dict[int, LoadStatus]) -> None:
    assert (loads[6].done, loads[6].total) == (4, 7)
    assert loads[6].error == "SafetensorError: incomplete metadata, file not fully covered"


def test_the_share_is_of_the_finest_count_there_is(loads: dict[int, LoadStatus]) -> None:
    assert loads[0].share == 120 / 291
    assert loads[6].share == 4 / 7
    assert loads[1].share is None


def test_a_wait_is_as_old_as_its_hosts_clock_says(loads: dict[int, LoadStatus]) -> None:
    lock, head = loads[1].outstanding
    assert (loads[1].waited_s(lock), loads[1].waited_s(head)) == (30.0, 18.0)


def test_spans_fill_the_whole_time_without_overlaps(loads: dict[int, LoadStatus]) -> None:
    for load in loads.values():
        spans = spans_of(load)
        assert spans[0].began_s == 0.0
        assert spans[-1].ended_s == load.took_s
        for one, following in itertools.pairwise(spans):
            assert one.ended_s == following.began_s
    assert [span.name for span in spans_of(loads[0])] == ["config", "files", "", "model", "shards"]
    assert spans_of(loads[0])[-1].under_way


def drawn(load: LoadStatus, cells: int) -> str:
    return "".join(piece.text for piece in timeline_pieces(spans_of(load), cells))


@pytest.mark.parametrize("cells", [8, 20, 61, 200])
def test_a_timeline_fills_its_cells_exactly(loads: dict[int, LoadStatus], cells: int) -> None:
    for load in loads.values():
        assert len(drawn(load, cells)) == cells


def test_a_timeline_is_to_scale_and_every_phase_can_be_told(
    loads: dict[int, LoadStatus],
) -> None:
    assert drawn(loads[7], 60) == "│1│2│3 shards─────────────────────────────────│4 dispatch───"
    assert drawn(loads[0], 40) == "│1│2│·│3│4 shards┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄"
    assert drawn(loads[6], 40).endswith("│3 model────│4 shards─✗")


def test_where_there_is_no_room_the_shortest_phases_are_left_out() -> None:
    spans = [
        Span(number=n, name=f"phase {n}", began_s=n - 1.0, ended_s=n - 0.5 if n % 2 else n + 0.0)
        for n in range(1, 31)
    ]
    pieces = timeline_pieces(spans, 40)
    assert sum(len(piece.text) for piece in pieces) == 40
    assert {spans[piece.place].took_s for piece in pieces} == {1.0}


@pytest.mark.parametrize(
    ("amounts", "least", "widths"),
    [
        ([1, 1], [0, 0], [5, 5]),
        ([9, 1], [0, 3], [7, 3]),
        ([0, 0, 0], [0, 0, 0], [4, 3, 3]),
        ([1, 1, 98], [2, 2, 2], [2, 2, 6]),
        ([], [], []),
    ],
)
def test_cells_are_shared_by_amount_above_the_least(
    amounts: list[float], least: list[int], widths: list[int]
) -> None:
    assert divide(amounts, 10, least) == widths


def test_neighbouring_modules_of_one_kind_are_one_entry() -> None:
    bars = {bar.device: bar for bar in device_bars(spread_placement())}
    assert [module.module for module in bars["cuda:0"].modules] == [
        "model.embed_tokens", "model.layers.0-9"
    ]  # fmt: skip
    assert [module.module for module in bars["cuda:1"].modules] == [
        "model.layers.10-15", "model.norm"
    ]  # fmt: skip
    assert bars["cuda:0"].modules[1].bytes == 10 << 30


def test_modules_that_are_no_neighbours_are_not_joined() -> None:
    names = ("h.0", "h.2", "h.3", "g.4", "h.5", "7")
    placement = Placement(
        model_class="M", modules=tuple(ModuleDevice(module=n, device="cpu") for n in names)
    )
    (bar,) = device_bars(placement)
    assert [module.module for module in bar.modules] == ["h.0", "h.2-3", "g.4", "h.5", "7"]


def test_devices_come_before_what_is_offloaded_and_what_lies_nowhere() -> None:
    bars = device_bars(spread_placement())
    assert [bar.device for bar in bars] == ["cuda:0", "cuda:1", "ram", "disk", "meta"]
    assert [bar.is_offloaded for bar in bars] == [False, False, True, True, False]
    assert [bar.is_nowhere for bar in bars] == [False] * 4 + [True]


def test_device_bars_are_to_scale_with_the_fullest_device() -> None:
    bars = device_bars(spread_placement())
    drawn = ["".join(piece.text for piece in device_pieces(bar, bars[0].bytes, 48)) for bar in bars]
    assert drawn[0] == "│embed_…│model.layers.0-9───────────────────────"
    assert [len(text) for text in drawn] == [48, 24, 6, 6, 8]
    assert drawn[1] == "│model.layers.10-15───│n"


@pytest.mark.parametrize("cells", [2, 4, 6, 9, 10, 11, 30, 79, 80, 200])
def test_a_bar_of_many_modules_fills_its_cells_exactly(cells: int) -> None:
    modules = tuple(
        ModuleDevice(module=f"block{n}.weight", device="cpu", bytes=n % 3) for n in range(40)
    )
    placement = Placement(
        model_class="M", modules=modules, devices=(DeviceBytes(device="cpu", parameters=39),)
    )
    (bar,) = device_bars(placement)
    pieces = device_pieces(bar, 39, cells)
    assert sum(len(piece.text) for piece in pieces) == cells
    assert all(piece.text.startswith("│") and len(piece.text) > 1 for piece in pieces)


def test_modules_without_room_are_counted() -> None:
    modules = tuple(
        ModuleDevice(module=f"block{n}.weight", device="cpu", bytes=1) for n in range(40)
    )
    placement = Placement(
        model_class="M", modules=modules, devices=(DeviceBytes(device="cpu", parameters=40),)
    )
    (bar,) = device_bars(placement)
    pieces = device_pieces(bar, 40, 30)
    assert sum(len(piece.text) for piece in pieces) == 30
    kept = [piece for piece in pieces if piece.place >= 0]
    assert pieces[-1].text == f"│+{40 - len(kept)}"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("", "whole model"),
        ("model.embed_tokens", "embed_tokens"),
        ("model.layers.0-15", "layers.0-15"),
        ("7", "7"),
    ],
)
def test_a_modules_label_is_the_end_of_its_name(name: str, label: str) -> None:
    assert module_label(name) == label
