from __future__ import annotations

from typing import get_args

from distwatch.diagnosis.verdict.headline import Word
from distwatch.report.markdown import MARKS
from distwatch.state import events as ev
from distwatch.tui.picture import freeze, take_picture
from distwatch.tui.styles import SEVERITIES
from distwatch.tui.verdict import (
    ViewerStatus,
    coverage_line,
    run_line,
    verdict_line,
    verdict_markdown,
    viewer_line,
)
from tests.tui.scripted import (
    HOST,
    Script,
    failed_job,
    healthy_job,
    hung_job,
    state_of,
)


def test_a_hang_is_told_by_glyph_word_and_rank() -> None:
    line = verdict_line(take_picture(state_of(hung_job()), "r")).plain
    assert line.startswith("■ HANG  rank 2 waits for data")


def test_every_word_of_a_verdict_has_its_glyph_and_its_mark() -> None:
    words = set(get_args(Word)) - {"unreadable"}
    assert words == set(SEVERITIES) == set(MARKS)


def test_a_healthy_run_says_how_many_and_how_lately() -> None:
    line = verdict_line(take_picture(state_of(healthy_job()), "r")).plain
    assert line == "✓ HEALTHY  4/4 ranks, last progress 1.0 s ago"


def test_nothing_seen_yet_is_no_verdict() -> None:
    picture = take_picture(state_of(Script(4)), "r")
    assert verdict_line(picture).plain == "○ STARTING  no ranks seen yet"
    assert coverage_line(picture).plain == "no ranks observed yet"


def test_a_job_that_starts_says_how_far_it_is() -> None:
    script = Script(4)
    script.start(0)
    script.start(1)
    script.see(1.0, ev.Ticked(host=HOST))
    line = verdict_line(take_picture(state_of(script), "r")).plain
    assert line == "○ STARTING  2/4 ranks seen: 2 starting, 2 unobserved"


def test_a_wait_below_its_deadline_is_a_suspicion_not_a_verdict() -> None:
    script = healthy_job()
    for rank in (0, 1, 2):
        script.pulse(rank, 38.0, 10, 9, 31.0)
    script.pulse(3, 38.0, 9, 9, 29.0)
    picture = take_picture(state_of(script), "r")
    assert not picture.findings
    line = verdict_line(picture).plain
    assert line.startswith("? SUSPECTED  rank 3 never entered all_reduce #10 of default_pg")
    assert line.endswith("have waited in it for 7.0 s (deadline in 23 s)")
    assert picture.culprits == {3}
    assert "collective.rank_missing" in verdict_markdown(picture)


def test_a_wait_of_a_moment_is_no_suspicion() -> None:
    script = healthy_job()
    for rank in (0, 1, 2):
        script.pulse(rank, 34.0, 10, 9, 31.0)
    script.pulse(3, 34.0, 9, 9, 29.0)
    assert take_picture(state_of(script), "r").verdict.word == "healthy"


def test_ranks_that_ended_in_order_are_no_failure() -> None:
    script = healthy_job()
    for rank in range(4):
        script.say(rank, 31.0, ev.ProcessEnding())
        script.see(32.0, ev.ExitSeen(process=script.key(rank), exit_code=0))
    line = verdict_line(take_picture(state_of(script), "r")).plain
    assert line == "✓ ENDED  4/4 ranks have ended; nothing wrong found"


def test_the_header_names_what_is_missing_and_why() -> None:
    picture = take_picture(state_of(failed_job()), "llama-ft")
    assert run_line(picture).plain == "llama-ft · torchrun · world 4 · node01"
    assert coverage_line(picture).plain == (
        "3/4 ranks observed · 0 events dropped · 1 of a newer version"
        " · not observed: stack of rank 0: no permission to ptrace"
    )


def test_lost_events_are_counted() -> None:
    script = Script(1)
    script.start(0)
    state = state_of(script)
    state.processes[script.key(0)].gaps = 12
    assert "12 events dropped" in coverage_line(take_picture(state, "r")).plain


def test_each_way_to_look_is_named() -> None:
    picture = take_picture(state_of(hung_job()), "r")
    live = viewer_line(ViewerStatus(age_s=2.0), picture).plain
    paused = viewer_line(
        ViewerStatus(mode="paused", behind_s=12.0, news=3, changed=True), picture
    ).plain
    replay = viewer_line(ViewerStatus(mode="replay", position_s=3.5, length_s=62.5), picture).plain
    failed = viewer_line(ViewerStatus(failure="the observer left"), picture).plain
    assert live == "LIVE 2 s old"
    assert paused == "PAUSED 12 s behind · 3 new events · the verdict changed"
    assert replay == "REPLAY 14:04:02 · 3.5 of 62.5 s"
    assert failed == "! the observer left"


def test_the_copied_verdict_holds_culprit_evidence_and_advice() -> None:
    text = verdict_markdown(take_picture(state_of(hung_job()), "llama-ft"))
    assert text.startswith("**HANG** rank 2 waits for data")
    assert "culprit ranks: 2; waiting ranks: 0-1,3" in text
    assert "data_loader.py:41 in __getitem__" in text
    assert "**do**: " in text
    assert "llama-ft: 4/4 ranks observed" in text


def test_a_frozen_picture_does_not_change_with_the_run() -> None:
    script = hung_job()
    state = state_of(script)
    picture = take_picture(state, "r")
    still = freeze(picture)
    process = state.processes[script.key(2)]
    process.steps.clear()
    process.outside.not_observed["stack"] = "gone"
    state.timeline.clear()
    state.hosts[HOST].not_observed["x"] = "y"
    kept = still.state.processes[script.key(2)]
    assert kept.steps
    assert not kept.outside.not_observed
    assert still.state.timeline
    assert not still.state.hosts[HOST].not_observed
