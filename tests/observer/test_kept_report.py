"""A kept report saves time and changes nothing: it counts only for the files and rules that it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from distwatch.observer import __main__ as daemon
from distwatch.observer.journals import sealed
from distwatch.observer.targets import kept_report, target
from distwatch.observer.targets.kept_report import KeptReport, path_of, read_kept
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.observer.targets.target import RunHere, report_on
from distwatch.report.document import Report, to_json
from distwatch.report.html import render_html
from distwatch.report.markdown import render_markdown
from distwatch.runfolder import host_name, write_start
from distwatch.state import events as ev
from distwatch.tui.once import render_once
from tests.cli.runs import save
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.diagnosis.recorded_loads import loading_job
from tests.diagnosis.recorded_ray import waiting_for_rank_1


@pytest.fixture(autouse=True)
def every_report_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "WORTH_S", -1.0)


@pytest.fixture
def run(tmp_path: Path) -> RunHere:
    return RunHere(save(hung_job(), tmp_path, "hung"))


def judging(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """The reports that are made from now on."""
    made: list[Report] = []

    def counted(state: target.RunState) -> Report:
        made.append(report_on(state))
        return made[-1]

    monkeypatch.setattr(target, "report_on", counted)
    return made


@pytest.mark.parametrize("recorded", [hung_job, loading_job, waiting_for_rank_1])
def test_a_second_look_judges_nothing_and_shows_the_same(
    recorded: Callable[[], RecordedJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunHere(save(recorded(), tmp_path, "run"))
    made = judging(monkeypatch)
    first, second = run.report(), run.report()
    assert made == [first]
    assert second is not first
    assert second == first
    for render in (to_json, render_markdown, render_html):
        assert render(second) == render(first)  # type: ignore[operator]


def grown(run: RunHere) -> None:
    job = hung_job()
    job.exit(2, 30.0, signal=9)
    save(job, Path(run.folder().path).parent, run.name)


def with_another_pulse(run: RunHere) -> None:
    Path(run.folder().path, "h-1.pulse").write_bytes(b"")


def touched(run: RunHere) -> None:
    path = next(Path(run.folder().path).glob("*.journal"))
    os.utime(path, ns=(1, 1))


def damaged(run: RunHere) -> None:
    kept = Path(path_of(run.folder()))
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")


def cut(run: RunHere) -> None:
    kept = Path(path_of(run.folder()))
    kept.write_bytes(kept.read_bytes()[:40])


def of_no_report(run: RunHere) -> None:
    content = msgspec.msgpack.encode({"source": 1})
    sealed.write_sealed(path_of(run.folder()), kept_report._MAGIC, KeptReport, content)


def replaced_by_a_link(run: RunHere) -> None:
    kept = Path(path_of(run.folder()))
    kept.rename(kept.with_name("elsewhere"))
    kept.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "changed",
    [grown, with_another_pulse, touched, damaged, cut, of_no_report, replaced_by_a_link],
)
def test_one_that_does_not_fit_does_not_count(
    changed: Callable[[RunHere], None], run: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.report()
    assert read_kept(run.folder()) is not None
    changed(run)
    assert read_kept(run.folder()) is None
    made = judging(monkeypatch)
    assert run.report() == made[0]


def test_one_of_other_rules_does_not_count(run: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    run.report()
    monkeypatch.setattr(kept_report, "_rules", lambda: ("diagnosis.py 1 2 3",))
    assert read_kept(run.folder()) is None


def test_none_is_kept_of_a_run_that_goes_on(run: RunHere) -> None:
    write_start(run.folder(), "rank", {"RANK": "0"})  # this process lives
    run.report()
    assert not os.path.exists(path_of(run.folder()))


def test_none_is_kept_while_a_process_of_this_host_lives(tmp_path: Path) -> None:
    job = RecordedJob(1)
    job.stand(0, host=host_name())
    job.initialize(0)
    run = RunHere(save(job, tmp_path, "run"))
    state = run.state()
    state.processes[job.key(0)].outside.exit_ns = None
    assert not kept_report.is_over(run.folder(), state)


def test_a_folder_that_cannot_be_written_only_costs_time(
    run: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "write_whole", full)
    assert run.report() == run.report()
    assert read_kept(run.folder()) is None


def test_the_observer_of_a_large_run_leaves_its_report(
    run: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.leave_report(run.folder())
    assert read_kept(run.folder()) is None, "a small run is judged sooner than it is read"
    monkeypatch.setattr(daemon, "LARGE", 1)
    daemon.leave_report(run.folder())
    assert read_kept(run.folder()) == RunHere(run.folder()).report()


def test_a_verdict_that_came_later_is_in_the_next_report(run: RunHere) -> None:
    before = run.report()
    job = hung_job()
    job.see(40.0, ev.FindingsJudged(host="h", incident=7))
    save(job, Path(run.folder().path).parent, run.name)
    after = run.report()
    assert after.timeline != before.timeline


async def test_a_viewer_takes_the_kept_verdict_for_the_end_alone(run: RunHere) -> None:
    report = run.report()
    source = RecordedRun(run.folder())
    await source.open()
    assert source.findings == report.findings
    shown = render_once(source.state, 100, findings=source.findings)
    assert shown == render_once(source.state, 100)
    source.seek(0)
    assert source.findings is None
