"""Model loads in the report's three formats."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from distwatch.report.document import build_report, to_json
from distwatch.report.html import LOADS, render_html
from distwatch.report.markdown import LIMIT, render_markdown
from distwatch.state import events as ev
from distwatch.state.loads import LoadProgress
from distwatch.state.model import RunState
from tests.diagnosis.recorded_loads import FILE, GIB, LoadingJob, loading_job, many_loads

SECRET = "hf_abcdefghijklmnopqrstuvwxyz0123"


def formats(state: RunState) -> dict[str, str]:
    report = build_report(state, [], "run-1")
    return {
        "json": to_json(report).decode(),
        "md": render_markdown(report),
        "html": render_html(report),
    }


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    return formats(loading_job().state)


def models_of(text: str) -> list[dict[str, Any]]:
    return json.loads(text)["models"]  # type: ignore[no-any-return]


def section(text: str, start: str, end: str) -> str:
    """A part of a text, whose ends must be there."""
    assert start in text
    body = text.partition(start)[2]
    assert end in body
    return body.partition(end)[0]


def test_json_keeps_its_keys_and_gains_what_is_known(told: dict[str, str]) -> None:
    waiting, asking, *_, spread = models_of(told["json"])
    kept = ("global_rank", "model", "phase", "done", "total", "file", "ended", "error")
    assert [waiting[key] for key in kept] == [
        0, "/models/llama", "shards", 3, 7, FILE, False, None
    ]  # fmt: skip
    gained = ("call", "took_s", "still_s", "parameters", "parameters_total", "bytes", "bytes_per_s")
    assert [waiting[key] for key in gained] == [
        "from_pretrained", 58.0, 42.0, 120, 291, 6 * GIB, 0.0
    ]  # fmt: skip
    assert [(phase["name"], phase["began_s"], phase["ended_s"]) for phase in waiting["phases"]] == [
        ("config", 0.0, 0.2), ("files", 0.2, 1.0), ("model", 4.0, 7.0), ("shards", 7.0, None)
    ]  # fmt: skip
    lock, request = asking["outstanding"]
    assert (lock["waiting"], lock["waited_s"], lock["attempts"]) == ("lock", 30.0, 1)
    assert (request["waited_s"], request["last_error"]) == (18.0, "ConnectTimeout: timed out")
    assert (spread["phase"], spread["ended"]) == ("done", True)
    assert spread["arguments"]["device_map"] == "auto"
    placement = spread["placement"]
    assert placement["leaked"] == ["lm_head.weight"]
    assert {device["device"] for device in placement["devices"]} == {
        "cuda:0", "cuda:1", "ram", "disk", "meta"
    }  # fmt: skip


def test_markdown_draws_each_load_in_a_code_block(told: dict[str, str]) -> None:
    text = section(told["md"], "### Models\n\n```text\n", "```")
    assert "rank 0  from_pretrained /models/llama: moved 42 s ago, began 58 s ago" in text
    assert "│4 shards┄┄┄" in text
    assert "4 shards 51 s so far" in text
    assert f"  files    3 of 7 {FILE}" in text
    assert "  tensors  120 of 291 · 6.0 GiB of 16.0 GiB · 0 B/s" in text
    assert f"  waits in a file for 42 s: /models/llama/{FILE}" in text
    assert (
        "a request for 18 s, attempt 3 after ConnectTimeout: timed out: HEAD https://hub." in text
    )
    assert "rank 6  from_pretrained /models/llama: ✗ failed after 10 s" in text
    assert "  error    SafetensorError: incomplete metadata" in text
    assert "ranks 3-5  from_pretrained /models/llama: ✓ loaded in 21 s to 23 s" in text
    for part in (
        "  cuda:0   │embed_", "  disk     │", "  on meta  ✗ 1 parameter that nothing will load: lm_head.weight",
        "  offload  1.0 GiB in ram · 1.0 GiB on disk in /scratch/offload", "  note     no pad token: gen",
    ):  # fmt: skip
        assert part in text, part


def test_loads_under_way_come_before_the_ended(told: dict[str, str]) -> None:
    for kind in ("md", "html"):
        text = told[kind].partition("Models")[2]
        assert text.index("moved 58 s ago") < text.index("failed after") < text.index("loaded in")


def test_html_draws_phases_and_devices_to_scale(told: dict[str, str]) -> None:
    cards = section(told["html"], "<h2>Models</h2>", "<h2>Machines</h2>").split("<section ")[1:]
    assert len(cards) == 6
    waiting, spread = cards[1], cards[5]
    assert 'class="load moving"' in waiting
    assert re.search(r'<span class="now" style="flex-grow: 51\.0000"[^>]*>4 shards</span>', waiting)
    assert 'class="gap" style="flex-grow: 3.0000"' in waiting
    assert '<progress value="3" max="7">' in waiting
    assert "a file for 42 s: /models/llama/" in waiting
    assert 'class="load failed"' in cards[3]
    assert '<span class="bad"' in cards[3]
    widths = re.findall(r'class="bar[a-z ]*" style="width: ([\d.]+)%"', spread)
    assert widths == ["100.00", "50.00", "8.33", "8.33", "16.67"]
    assert ">layers.0-9</span>" in spread
    assert "1 parameter that nothing will load: lm_head.weight" in spread


def test_a_load_that_was_cut_off_says_where_it_was() -> None:
    job = loading_job()
    job.exit(0, 61.0, signal=9)
    job.tick(90.0)
    texts = formats(job.state)
    assert models_of(texts["json"])[0]["cut_off"] is True
    for kind in ("md", "html"):
        assert "its process ended after 59 s, 43 s after it last moved" in texts[kind]
        assert "was in" in texts[kind]


def test_what_no_pulse_said_is_not_a_zero() -> None:
    job = LoadingJob(1)
    job.load(0, 1.0)
    job.phase(0, 51, "shards", 2.0)
    job.say(0, 3.0, ev.StepProgressed(step=51, done=1, parameters=3, bytes=1024))
    texts = formats(job.state)
    assert models_of(texts["json"])[0]["bytes_per_s"] is None
    for kind in ("md", "html"):
        assert "3 of – · 1.0 KiB of – · –" in texts[kind]


@pytest.mark.parametrize("kind", ["json", "md", "html"])
def test_no_secret_of_a_load_is_in_any_format(kind: str) -> None:
    job = LoadingJob(2)
    for rank in (0, 1):
        job.load(
            rank, 1.0, checkpoint=f"https://user:{SECRET}@hub/m", quantization=f"token {SECRET}"
        )
    waits = job.outstanding(
        "request", f"GET http://hub/x?token={SECRET}", 1.0, last_error=f"token {SECRET} is refused"
    )
    job.phase(0, 51, "files", 1.0, label=f"token {SECRET}", total=2)
    job.pulse(0, at=2.0, loads=(LoadProgress(step=50, outstanding=(waits,)),))
    job.phase(1, 51, "files", 1.0, 2.0, error=f"OSError: token {SECRET}")
    job.say(1, 3.0, ev.StepEnded(step=50, error=f"OSError: token {SECRET}"))
    text = formats(job.state)[kind]
    assert SECRET not in text
    assert "a request for 2.0 s" in text or kind == "json"


@pytest.mark.parametrize("kind", ["md", "html"])
def test_the_names_of_a_load_cannot_break_out(kind: str) -> None:
    job = LoadingJob(1)
    job.load(0, 1.0, checkpoint="```\n<script>alert(1)</script>")
    job.phase(0, 51, "<script>```", 1.0, 2.0, error="```<script>\n```")
    text = formats(job.state)[kind]
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert text.count("```") % 2 == 0
    assert "<script>" not in outside


def test_a_large_job_stays_within_bounds_and_counts_what_it_leaves_out() -> None:
    texts = formats(many_loads(512, 128).state)
    assert len(texts["md"]) < LIMIT
    assert texts["md"].count("```") % 2 == 0
    assert re.search(r"… \d+ more loads …", texts["md"])
    assert f"{512 - 128 + 1 - LOADS} more loads are in report.json" in texts["html"]
    assert len(models_of(texts["json"])) == 512


def test_a_run_without_loads_has_no_section_of_models() -> None:
    job = LoadingJob(1)
    job.initialize(0)
    texts = formats(job.state)
    assert models_of(texts["json"]) == []
    for kind in ("md", "html"):
        assert "Models" not in texts[kind]
