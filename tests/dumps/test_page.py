"""docs/import.md: its commands, on the files that they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, assert_shown, blocks_for

JOB = Path(__file__).parent / "data" / "logs" / "data_worker_oom"


@pytest.mark.parametrize("block", blocks_for("tests/dumps/test_page.py"), ids=str)
def test_the_commands_of_the_page_print_what_it_shows(block: Block, tmp_path: Path) -> None:
    shutil.copytree(JOB, tmp_path / "job")
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o700)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DISTWATCH_DIR": str(runs), "PATH": programs}
    for session in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = session.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path / "job", env=environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert_shown(shown, done.stdout)
