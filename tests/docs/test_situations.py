"""What the pages about situations show is run on a recorded job in that situation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.runs import save
from tests.diagnosis.recorded import RecordedJob, hung_job
from tests.diagnosis.recorded_loads import loading_job
from tests.docs.blocks import REPOSITORY, Block, assert_shown, blocks_for, shell

WIDE = "export COLUMNS=100\n"
"""As wide as the pages show it."""
OTHERS_JOBS = re.compile(r"^distwatch: .* runs? without distwatch: .*\n", re.MULTILINE)
"""What is said of other tests' jobs, which run on this host meanwhile."""
BLOCKS = blocks_for("tests/docs/test_situations.py")


def killed_job() -> RecordedJob:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    job.exit(1, 20.0, signal=9)
    job.fail(0, 20.2, "RuntimeError", "Connection closed by peer [127.0.0.1]:29500")
    job.exit(0, 20.5, code=1)
    job.exit(2, 21.0, signal=15)
    return job


def incomplete_job() -> RecordedJob:
    job = RecordedJob(3)
    job.enter(0, 1)
    job.tick(12.0)
    return job


JOBS: dict[str, tuple[str, Callable[[], RecordedJob]]] = {
    "docs/start.md": ("hung", hung_job),
    "docs/hangs-now.md": ("hung", hung_job),
    "docs/killed.md": ("killed", killed_job),
    "docs/never-starts.md": ("incomplete", incomplete_job),
    "docs/model-never-loads.md": ("loading", loading_job),
}
"""By page: the run's name, and how it comes about."""


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_page_shows_what_is_printed(block: Block, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    name, job = JOBS.get(block.page, ("", None))
    if job is not None:
        save(job(), tmp_path / "runs", name)
    # Without a name `attach` takes what runs on this host, where other tests have jobs.
    text = block.text.replace("distwatch attach --once", f"distwatch attach {name} --once")
    if block.language == "sh":
        code, output = shell(f"set -e\n{text}", tmp_path)
        assert code == 0, output
        return
    for session in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = session.partition("\n")
        assert_shown(shown, OTHERS_JOBS.sub("", shell(f"{WIDE}{command}", tmp_path)[1]))


def test_every_page_is_tried() -> None:
    assert {block.page for block in BLOCKS} >= set(JOBS)
