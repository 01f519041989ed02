"""What the server shows: the same as the commands, made when it is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from distwatch.observer.lock import take_lock
from distwatch.observer.targets.target import RunHere
from distwatch.report.document import to_json
from distwatch.runfolder import RunFolder, start_ticks
from tests.cli.runs import call, rings, save
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.web.conftest import Serve


def live(root: Path, run_id: str) -> None:
    """A run whose one rank is this process."""
    job = RecordedJob(1)
    job.initialize(0)
    me = os.getpid()
    rings(RunFolder(str(root / run_id)), job, {0: (me, start_ticks(me))})


def test_the_first_page_is_the_report_on_the_newest_run(serve: Serve, healthy: Path) -> None:
    client = serve()
    first = client.ask("/")
    assert (first.status, first.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert first.text.startswith("<!doctype html>")
    assert "never entered" not in first.text
    later = hung_job()
    for stream, header in later.headers.items():
        later.headers[stream] = msgspec.structs.replace(header, wall_offset_ns=10**18)
    save(later, healthy, "hung")
    assert "never entered" in client.ask("/").text


def test_a_named_run_is_the_first_page_wherever_it_lies(
    serve: Serve, healthy: Path, tmp_path: Path
) -> None:
    elsewhere = save(hung_job(), tmp_path / "elsewhere", "moved")
    client = serve(elsewhere.path)
    assert "never entered" in client.ask("/").text
    assert json.loads(client.ask("/runs/moved/status.json").body)["run"]["id"] == "moved"
    assert client.ask("/runs/healthy/status.json").status == 200


def test_a_root_without_runs_says_so(serve: Serve, root: Path) -> None:
    client = serve()
    assert client.ask("/").status == 404
    assert "no run is recorded" in client.ask("/").text
    assert json.loads(client.ask("/runs").body) == {"schema": "distwatch.ps/1", "runs": []}
    assert (client.ask("/metrics").status, client.ask("/metrics").body) == (200, b"")


def test_pages_are_what_the_commands_print(serve: Serve, hung: Path) -> None:
    client = serve()
    for page, arguments in {
        "/runs": ("ps", "-o", "json"),
        "/runs/hung/status.json": ("status", "hung", "-o", "json"),
        "/runs/hung/report.json": ("report", "hung", "-o", "json"),
    }.items():
        reply = client.ask(page)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert json.loads(reply.body) == json.loads(call(*arguments, root=hung).stdout)
    assert client.ask("/runs/hung/report.md").text == call("report", "hung", root=hung).stdout
    assert client.ask("/runs/hung/report.html?x=1").text.startswith("<!doctype html>")


def test_metrics_are_of_the_living(serve: Serve, hung: Path) -> None:
    live(hung, "one")
    live(hung, "two")
    reply = serve().ask("/metrics")
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    # The parser refuses a family that comes twice.
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    assert len(families) == reply.text.count("# TYPE")
    runs = {sample.labels["run"] for family in families.values() for sample in family.samples}
    assert runs == {"one", "two"}


def test_a_run_that_cannot_be_read_hides_no_other(serve: Serve, hung: Path) -> None:
    live(hung, "one")
    bad = RunFolder(str(hung / "bad"))
    bad.create()
    Path(bad.path, "x.journal").write_bytes(os.urandom(4000))
    assert take_lock(bad) is not None
    client = serve()
    assert 'distwatch_run_readable{run="bad"} 0.0' in client.ask("/metrics").text
    assert 'distwatch_run_readable{run="one"} 1.0' in client.ask("/metrics").text
    reply = client.ask("/runs/bad/report.json")
    assert reply.status == 500
    assert "no readable record" in reply.text


def test_a_report_says_what_is_true_now(serve: Serve, root: Path) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    folder = save(job, root, "r")
    client = serve()
    before = client.ask("/runs/r/report.json").body
    assert before == to_json(RunHere(folder).report())
    job.exit(1, 9.0, code=3)
    save(job, root, "r")
    after = json.loads(client.ask("/runs/r/report.json").body)
    assert after["findings"][0]["culprit_ranks"] == [1]
    assert json.loads(before)["findings"] == []
