"""From 120 columns on the selected subject stands beside its list; the view that fits comes first."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.tui.opening import first_view
from distwatch.tui.picture import take_picture
from tests.diagnosis.recorded_loads import loading_job
from tests.tui.driving import watching
from tests.tui.scripted import HOST, READING, healthy_job, hung_job, large_hang, state_of


async def test_the_pane_shows_the_blamed_rank_with_its_source_line() -> None:
    script = hung_job()
    line = ev.SourceLine(file=READING[-1].file, line=41, text="    return self.shards[index]")
    script.see(62.1, ev.SourcesRead(host=HOST, lines=(line,)))
    async with watching(script, size=(160, 44)) as viewer:
        screen = viewer.screen
        for part in (
            "rank 2  r running for 42 s  ▶ blamed", "data_loader.py:41 in __getitem__", "│ return self.shards[index]",
            "◀ ranks 0-1,3 wait for it in all_reduce #5", "✓ init_process_group", "calls/s", "the last minutes",
            "who waits for whom",
        ):  # fmt: skip
            assert part in screen, part


async def test_the_first_lines_are_seen_beside_the_blamed_rank() -> None:
    async with watching(large_hang(8), size=(120, 30)) as viewer:
        rows = [line for line in viewer.screen.splitlines() if " w waiting  " in line[:30]]
        assert len(rows) == 7
        assert "rank 3  r running" in viewer.screen


async def test_the_pane_follows_the_cursor_and_v_hides_it() -> None:
    async with watching(hung_job(), size=(120, 40)) as viewer:
        await viewer.press("up")
        assert "rank 1  w waiting" in viewer.screen
        assert "▶ waits for rank 2" in viewer.screen
        await viewer.press("v")
        assert "▶ waits for rank 2" not in viewer.screen
        await viewer.press("v", "5")
        assert "record" in viewer.screen  # the detail of the newest event


async def test_below_120_columns_there_is_no_pane() -> None:
    async with watching(hung_job(), size=(119, 40)) as viewer:
        assert "who waits for whom" not in viewer.screen
        assert "last operations" not in viewer.screen


async def test_resizing_brings_and_takes_the_pane() -> None:
    async with watching(hung_job(), size=(119, 40)) as viewer:
        await viewer.pilot.resize_terminal(140, 40)
        await viewer.pilot.pause()
        assert "last operations" in viewer.screen


@pytest.mark.parametrize(
    ("view", "state"),
    [
        ("ranks", state_of(hung_job())),
        ("map", state_of(large_hang(128))),
        ("loading", loading_job().state),
        ("", state_of(healthy_job())),
    ],
)
def test_the_view_that_fits_the_verdict_is_first(view: str, state: object) -> None:
    assert first_view(take_picture(state, "first")) == view  # type: ignore[arg-type]


async def test_a_verdict_opens_no_other_view_once_a_person_has_chosen() -> None:
    async with watching(large_hang(128), until=2.0, at=2.0) as viewer:
        await viewer.press("2")
        viewer.source.reach(64.0)
        await viewer.poll()
        assert "[2 Groups]" in viewer.screen
        assert "HANG" in viewer.screen


async def test_hooks_are_one_line_and_who_says_something_of_another_rank_is_told() -> None:
    script = hung_job()
    for rank in range(4):
        for name in ("torch_distributed", "transformers", "accelerate"):
            script.say(rank, 0.8, ev.IntegrationChanged(name=name, status="armed"))
    finding = take_picture(state_of(script), "x").findings[0]
    script.say(1, 62.0, ev.FindingRaised(finding=finding))
    async with watching(script, size=(200, 40)) as viewer:
        await viewer.press("5")
        armed = [line for line in viewer.screen.splitlines() if "armed" in line]
        assert len(armed) == 1
        assert "ranks 0-3     integrations         armed: accelerate, torch_distributed" in armed[0]
        assert (
            "rank 1        finding raised       says: process.data_stall: rank 2 waits"
            in viewer.screen
        )


async def test_cpu_and_device_use_are_seen_once_there_are_two_samples() -> None:
    script = hung_job()
    for second in range(5):
        cpu = ev.ProcessSampled(process=script.key(2), state="R", cpu_s=34.5 + second / 2)
        script.see(63.0 + second, cpu)
        device = ev.Device(index=0, name="NVIDIA H100", utilization=25 * second)
        script.see(63.0 + second, ev.DevicesSampled(host=HOST, devices=(device,)))
    async with watching(script, until=62.5, size=(160, 44)) as viewer:
        assert "CPU     " not in viewer.screen
        for second in range(5):
            viewer.source.reach(63.0 + second)
            await viewer.poll()
        assert "▅▅▅▅▅ 50%" in viewer.screen
        await viewer.press("4")
        assert "▁▃▅▆█" in viewer.screen
