"""The report's three formats, of the same recorded jobs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.report.document import build_report, to_json
from distwatch.report.html import render_html
from distwatch.report.markdown import LIMIT, render_markdown
from distwatch.report.matrix import Matrix, build_matrix
from distwatch.report.page_script import part, script_hash
from distwatch.report.timeline import Happening, folded, happenings_of
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.diagnosis.recorded import RecordedJob, frame, hung_job

SECRETS = {
    "hf_abcdefghijklmnopqrstuvwxyz0123": "token {}",
    "s3cr3t-passw0rd": "cannot reach https://user:{}@hub.example/x",
    "AKIAIOSFODNN7EXAMPLE": "credentials {} are refused",
    "hunter2hunter2": "login failed: password={}",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "git says {}",
}


def formats(state: RunState) -> dict[str, str]:
    report = build_report(state, diagnose(state), "run-1")
    return {
        "json": to_json(report).decode(),
        "md": render_markdown(report),
        "html": render_html(report),
    }


def crashed_job() -> RecordedJob:
    """Rank 1 dies of an exception that carries secrets, and Markdown and HTML, too."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    message = "; ".join(text.format(secret) for secret, text in SECRETS.items())
    error = ev.ExceptionUncaught(
        type_name="ValueError",
        message=message,
        traceback=(
            "Traceback:",
            f"  {message}",
            "```",
            "<script>alert(1)</script> @everyone | `x`",
        ),
        site=ev.Site(file="/job/train.py", line=7, function="step"),
    )
    job.say(1, 20.0, error)
    job.exit(1, 20.2, code=1)
    return job


def test_json_is_the_contract() -> None:
    report = json.loads(formats(hung_job().state)["json"])
    assert report["schema"] == "distwatch.report/1"
    assert list(report) == (
        "schema run coverage verdict findings ranks groups layouts stacks models devices ray incidents"
        " processes timeline".split()
    )
    assert set(report["run"]) == set("id started ended launcher world_size hosts versions".split())
    assert {"expected_ranks", "observed_ranks", "unobserved", "dropped_events"} <= set(
        report["coverage"]
    )
    (finding,) = report["findings"]
    assert set(finding) == set(
        "code role severity culprit_ranks waiting_ranks pg_name pg_desc summary advice evidence confidence why".split()
    )
    assert (finding["code"], finding["culprit_ranks"]) == ("collective.rank_missing", [2])
    assert all(
        set(evidence) == {"source", "text", "global_rank"} for evidence in finding["evidence"]
    )
    assert [rank["state"] for rank in report["ranks"]] == [
        "waiting",
        "waiting",
        "running",
        "waiting",
    ]
    (group,) = report["groups"]
    assert (group["entered"], group["missing"], group["collective_seq"]) == ([0, 1, 3], [2], 5)


@pytest.mark.parametrize("kind", ["json", "md", "html"])
def test_no_secret_is_in_any_format(kind: str) -> None:
    text = formats(crashed_job().state)[kind]
    assert [secret for secret in SECRETS if secret in text] == []
    assert "ValueError" in text


@pytest.mark.parametrize("kind", ["md", "html"])
def test_the_verdict_comes_first(kind: str) -> None:
    text = formats(hung_job().state)[kind]
    body = text.partition("<body>")[2] or text
    assert body.index("never entered") < 700


def test_markdown_cannot_be_broken_out_of() -> None:
    text = formats(crashed_job().state)["md"]
    assert text.count("```") % 2 == 0
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert "<script>" not in outside
    assert "@everyone" not in outside


class Checker(HTMLParser):
    """What a page could fetch, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        links = [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.outside += [link for link in links if not link.startswith("#r")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
            self._in_script = False


def test_html_is_one_file_without_network_and_runs_no_script_but_its_own() -> None:
    checker = Checker()
    text = formats(crashed_job().state)["html"]
    checker.feed(text)
    assert checker.outside == []
    assert [script.strip() for script in checker.scripts] == [part("report.js").strip()]
    assert (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src '{script_hash('report.js')}'"
        in text
    )
    assert "@import" not in text
    assert "url(" not in text


def test_a_healthy_run_has_no_findings_and_says_so() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    texts = formats(job.state)
    assert json.loads(texts["json"])["findings"] == []
    assert json.loads(texts["json"])["verdict"]["word"] == "healthy"
    assert "🟢 healthy: 2/2 ranks" in texts["md"]
    assert '<div class="kind">healthy</div>' in texts["html"]


def test_a_suspicion_is_told_in_every_format_with_its_deadline() -> None:
    texts = formats(hung_job(waited=7.0).state)
    verdict = json.loads(texts["json"])["verdict"]
    assert (verdict["word"], verdict["culprit_ranks"]) == ("suspected", [2])
    assert verdict["deadline_in_s"] == 3.0
    assert json.loads(texts["json"])["findings"] == []
    for text in (texts["md"], texts["html"]):
        assert "deadline in 3.0 s" in text
        assert verdict["code"] in text


def test_what_was_not_observed_is_named() -> None:
    job = hung_job()
    del job.state.processes[job.key(3)]
    job.see(31, ev.DevicesSampled(host="node1", not_observed="no NVIDIA driver"))
    texts = formats(job.state)
    coverage = json.loads(texts["json"])["coverage"]
    assert coverage["unobserved"]["3"] == "no process seen"
    assert (coverage["observed_ranks"], coverage["expected_ranks"]) == (3, 4)
    for text in (texts["md"], texts["html"]):
        unknown = text.partition("What is not known")[2]
        assert "no process seen" in unknown
        assert "no NVIDIA driver" in unknown


def test_markdown_fits_an_issue_however_large_the_job() -> None:
    world = 2000
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        frames = tuple(
            frame(f"function_{rank}_{depth}", f"/job/{rank}.py", depth) for depth in range(20)
        )
        job.stack(rank, 5, frames)
    text = formats(job.state)["md"]
    assert len(text) < LIMIT
    assert text.count("```") % 2 == 0
    assert "more ranks" in text


def matrix_of(job: RecordedJob) -> Matrix:
    return build_matrix(build_report(job.state, diagnose(job.state), "recorded"))


def test_the_matrix_folds_ranks_that_stand_alike_and_puts_the_culprit_first() -> None:
    matrix = matrix_of(hung_job(8, culprit=5))
    assert matrix.columns == ("default_pg",)
    told = [(row.ranks, row.culprit, row.cells[0].text, row.cells[0].word) for row in matrix.rows]
    assert told == [("5", True, "after #4", "missing"), ("0-4,6-7", False, "#5", "waits")]


def test_groups_of_one_description_share_a_column() -> None:
    job = hung_job(4)
    for rank in range(4):
        members = (0, 1) if rank < 2 else (2, 3)
        job.hold(rank, str(1 + rank // 2), members, desc="tensor")
    matrix = matrix_of(job)
    assert matrix.columns == ("default_pg", "tensor")
    assert {row.cells[1].text for row in matrix.rows} == {"none"}


def test_who_is_no_member_or_was_not_observed_is_not_at_zero() -> None:
    job = hung_job(4)
    job.hold(0, "1", (0, 1), desc="pair")
    cells = {row.ranks: row.cells[1].text for row in matrix_of(job).rows}
    assert cells == {"2": "·", "0": "none", "1": "?", "3": "·"}


def happening(rank: int, kind: str, text: str) -> Happening:
    return Happening(time="t", host="n", global_rank=rank, process="p", kind=kind, text=text)


def test_people_see_once_what_happened_to_several_ranks() -> None:
    told = [happening(rank, "step started", "rendezvous") for rank in (0, 1, 0)]
    told += [happening(2, "step progressed", "step 1: 3 of 9")]
    told += [happening(0, "integration changed", "torch_distributed applied")]
    told += [happening(1, "integration changed", "peft failed: ImportError")]
    assert [(one.who, one.kind, one.text) for one in folded(told)] == [
        ("ranks 0-1", "step started", "rendezvous"),
        ("rank 0", "step started", "rendezvous"),
        ("rank 1", "integration changed", "peft failed: ImportError"),
    ]


def test_steps_of_the_timeline_have_names() -> None:
    job = RecordedJob(1)
    job.initialize(0)
    text = [one.text for one in happenings_of(job.state) if one.kind == "step ended"]
    assert text
    assert all(not re.match(r"step \d", one) for one in text), text
