"""What README.md shows first is run on a recorded hang, and docs/commands.md names every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runs import distwatch, save
from tests.diagnosis.recorded import hung_job
from tests.docs.blocks import REPOSITORY, blocks_for

CODES = {"attach": 3, "stacks": 0, "report": 3}
PAGE = (REPOSITORY / "docs" / "commands.md").read_text()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(hung_job(), tmp_path, "hung")
    return tmp_path


def test_the_three_commands_of_a_hang(root: Path) -> None:
    (block,) = blocks_for("tests/docs/test_first_screen.py")
    commands = [line.partition("#")[0].split()[1:] for line in block.text.splitlines()]
    assert [command[0] for command in commands] == list(CODES)
    for command in commands:
        done = distwatch(*command, "hung", root=root)
        assert done.returncode == CODES[command[0]], done.stderr
        assert ("read_shard" if command[0] == "stacks" else "rank 2") in done.stdout


def keys(of: str) -> set[str]:
    """What the page lists for it."""
    row = re.search(rf"^\| (each of )?`{of}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert row, of
    return set(re.findall(r"`(\w+)`", row[2]))


def test_every_key_is_on_the_page(root: Path) -> None:
    report: dict[str, Any] = json.loads(distwatch("report", "-o", "json", root=root).stdout)
    told = re.search(r"^\| `report -o json`.*$", PAGE, re.MULTILINE)
    assert told
    assert set(report) - {"schema"} <= set(re.findall(r"`(\w+)`", told[0]))
    for part in ("run", "coverage", "verdict"):
        assert set(report[part]) == keys(part)
    for part in ("findings", "ranks", "groups", "timeline"):
        assert set(report[part][0]) == keys(part)
    runs = json.loads(distwatch("ps", "-o", "json", root=root).stdout)["runs"]
    assert set(runs[0]) == keys("runs")
    doctor = json.loads(distwatch("doctor", "-o", "json", root=root).stdout)
    assert set(doctor["checks"][0]) == keys("checks")
