"""No command lets a recorded run steer the terminal that it is looked at on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.errors import DistwatchError
from distwatch.observer.targets.runs import list_runs
from distwatch.observer.targets.target import RunHere
from distwatch.state import events as ev
from distwatch.visible_text import visible, visible_line
from distwatch.web.live_page import run_page, runs_table
from distwatch.web.pages import Pages
from tests.cli.runs import call, distwatch, save
from tests.diagnosis.recorded import HOST, RecordedJob, hung_job
from tests.diagnosis.recorded_loads import loading_job
from tests.diagnosis.recorded_ray import waiting_for_rank_1
from tests.support.steering import SHOWN, STEERS, steered, steering


def crashed_job() -> RecordedJob:
    job = RecordedJob(2)
    job.initialize(0, 1)
    site = ev.Site(file="/job/train.py", line=7, function="step")
    text = ("Traceback (most recent call last):", "ValueError: bad batch")
    job.say(1, 20.0, ev.ExceptionUncaught(type_name="E", message="bad", traceback=text, site=site))
    job.exit(1, 20.2, code=1)
    return job


JOBS: dict[str, Callable[[], RecordedJob]] = {
    "hung": hung_job,
    "crashed": crashed_job,
    "loading": loading_job,
    "ray": waiting_for_rank_1,
}
COMMANDS = (
    ["ps"],
    ["ps", "-o", "md"],
    ["ps", "-o", "json"],
    ["status", "RUN"],
    ["status", "RUN", "-o", "md"],
    ["status", "RUN", "-o", "ndjson"],
    ["status", "RUN", "-o", "json"],
    ["stacks", "RUN", "--threads"],
    ["stacks", "RUN", "-o", "md"],
    ["stacks", "RUN", "-o", "json"],
    ["stacks", "RUN", "-o", "speedscope"],
    ["report", "RUN"],
    ["report", "RUN", "-o", "json"],
    ["report", "RUN", "-o", "html"],
    ["attach", "--once", "RUN"],
    ["attach", "--once", "--color", "always", "RUN"],
    ["status", "RUN", "--color", "always"],
    ["export", "RUN", "-o", "perfetto"],
    ["export", "RUN", "-o", "speedscope"],
    ["export", "RUN", "-o", "prometheus"],
    ["status", f"no such run{STEERS}"],
    ["clean", "--all", "--dry-run"],
)


def record(kind: str, root: Path) -> str:
    """Records such a job; the name of its run steers, too."""
    job = JOBS[kind]()
    job.records = {
        steered(stream, HOST): [(seq, at, steered(event, HOST)) for seq, at, event in records]
        for stream, records in job.records.items()
    }
    job.headers = {steered(key, HOST): steered(one, HOST) for key, one in job.headers.items()}
    return save(job, root, f"run{STEERS}").run_id


@pytest.mark.parametrize("kind", JOBS)
def test_no_command_passes_on_what_steers(kind: str, root: Path) -> None:
    run_id = record(kind, root)
    shown = 0
    for command in COMMANDS:
        arguments = [run_id if one == "RUN" else one for one in command]
        done = call(*arguments, root=root)
        text = done.output + str(done.exception or "")
        if "always" in command:
            text = "".join(piece.partition("m")[2] for piece in f"m{text}".split("\x1b["))
        assert steering(text) == [], command
        shown += SHOWN in text
        if "json" in command and done.exception is None:
            json.loads(done.stdout)
    assert shown > 10, "what was recorded is shown, as what it is"


def test_neither_does_what_a_process_writes_itself(root: Path) -> None:
    run_id = record("hung", root)
    for arguments in (["status", run_id], ["status", STEERS], [STEERS], ["status", "-o", STEERS]):
        done = distwatch(*arguments, root=root)
        assert steering(done.stdout + done.stderr) == []
        assert "owned" in done.stdout + done.stderr


def test_neither_does_a_page(root: Path) -> None:
    run_id = record("hung", root)
    pages = Pages(str(root), run_id)
    bodies = [
        pages.runs().body.decode(),
        pages.status(run_id).body.decode(),
        pages.stacks(run_id).body.decode(),
        pages.rank(run_id, "0").body.decode(),
        pages.report(run_id, "md").body.decode(),
        run_page(RunHere(pages.folder(run_id)).report(), "1"),
        runs_table(list_runs(str(root)), 0),
    ]
    assert [steering(body) for body in bodies] == [[]] * len(bodies)
    assert SHOWN in bodies[-2]
    assert json.loads(bodies[0])["runs"][0]["run_id"] == run_id


def test_an_error_of_ours_steers_nothing() -> None:
    error = DistwatchError(f"rank 3 says {STEERS}", advice=STEERS)
    assert steering(str(error)) == []
    assert SHOWN in str(error)


@given(st.text(st.characters(), max_size=60))
def test_no_text_steers_and_plain_text_stays(text: str) -> None:
    told = visible(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in told)
    told.encode()
    assert "\n" not in visible_line(text)
    if text.isprintable():
        assert told == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_json_document_still_means_the_same(text: str) -> None:
    assert json.loads(visible(json.dumps({"text": text}, ensure_ascii=False))) == {"text": text}
