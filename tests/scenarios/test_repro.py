"""The script that `distwatch repro` writes, run for real: its ranks part as those of the run did."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.report.reproduction import NotReproducible, reproduce
from tests.diagnosis.acted_job import ActedJob
from tests.diagnosis.parted_programs import read_programs
from tests.support.ranks import launch_ranks


def recorded_verdict(
    name: str, folder: Path, world: int | None = None
) -> tuple[str, str, set[int]]:
    """The script for one of the programs, and the verdict on the program itself."""
    program = next(p for p in read_programs() if p.name == name)
    job = ActedJob(folder / "train.py", program.text, world or program.world).act()
    state = job.recorded().state
    cases = cases_of(state)
    finding = diagnose(cases)[0]
    script = reproduce(cases[0], finding, state.run_id)
    return script, finding.code, set(finding.culprit_ranks)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("branch", "collective.op_mismatch"),
        ("loop_over_data", "collective.count_uneven"),
        ("files_decide", "collective.rank_missing"),
    ],
)
def test_the_script_gets_the_verdict_of_the_run(name: str, code: str, tmp_path: Path) -> None:
    script, found, culprits = recorded_verdict(name, tmp_path)
    assert found == code
    (tmp_path / "repro.py").write_text(script)
    with launch_ranks(str(tmp_path / "repro"), 2, env={"DISTWATCH": "1"}) as job:
        job.wait_verdict(code, culprits)


def test_a_verdict_that_is_not_about_calls_has_no_script(tmp_path: Path) -> None:
    with pytest.raises(NotReproducible, match="is not about calls"):
        recorded_verdict("exit_early", tmp_path)
