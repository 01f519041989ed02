"""What is not as it should be in Ray, in the report and on the screen."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.report.document import build_report
from distwatch.report.html import render_html
from distwatch.report.markdown import render_markdown
from distwatch.tui.picture import take_picture
from distwatch.tui.views import devices
from distwatch.tui.views.detail import detail
from distwatch.views.ray_rows import ray_rows
from tests.diagnosis.recorded_ray import RecordedActors


def troubled() -> RecordedActors:
    job = RecordedActors(4)
    job.enter(0)
    job.place(0)
    job.actor(0, 1.0)
    job.node(1.0)
    job.node(2.0, "node2", alive=False, death_text="missing too many heartbeats")
    job.node(2.0, "node3", alive=False, death_text="idle")
    job.placement_group(1.0, bundles=({"GPU": 1.0},), scheduling="INFEASIBLE")
    job.actor(1, 1.0, "PENDING_CREATION", needs={"GPU": 1.0}, placement_group="g")
    secret = "no access: password=hunter2hunter2"
    job.actor(2, 3.0, "DEAD", death="init_failed", death_text=secret, node_id="node-of-node2")
    job.actor(3, 3.0, "DEAD", death="exited")
    job.look(13.0)
    return job


def test_rows_are_what_waits_failed_or_died_and_nothing_else() -> None:
    told = [(row.kind, row.global_rank, row.state) for row in ray_rows(troubled().state)]
    assert told == [
        ("placement group", None, "PENDING (INFEASIBLE)"),
        ("actor", 1, "PENDING_CREATION"),
        ("actor", 2, "DEAD (init_failed)"),
        ("node", None, "DEAD"),
    ]


def test_the_report_and_the_views_show_them_without_secrets() -> None:
    state = troubled().state
    report = build_report(state, diagnose(state), "run-1")
    for text in (render_markdown(report), render_html(report)):
        assert "init_failed" in text.replace("\\", "")
        assert "missing too many heartbeats" in text
        assert "hunter2" not in text
    picture = take_picture(state, "run-1")
    lines = [line for line in devices.lines(picture) if line.key.startswith("ray:")]
    assert len(lines) == 5
    assert "needs 1 GPU" in "".join(line.draw(200).plain for line in lines)
    assert all(detail(picture, line.key) is not None for line in lines)
    shown = detail(picture, "rank:1")
    assert "PENDING_CREATION" in shown.plain


def test_a_run_without_ray_has_no_such_section() -> None:
    job = RecordedActors(1)
    job.start(0)
    assert ray_rows(job.state) == []
    assert "Ray" not in render_markdown(build_report(job.state, [], "run-1"))
