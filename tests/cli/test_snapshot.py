"""`distwatch.snapshot()`: what `distwatch status -o json` says, from inside of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import distwatch
from distwatch.agent import entry
from distwatch.errors import NoSuchTarget
from distwatch.runfolder import RunFolder
from tests.cli.runs import call
from tests.observer.rank_process import RankProcess

IN_A_RANK = """
import json, sys, distwatch.auto, distwatch
from distwatch.agent import core
from distwatch.state.steps import LOAD
heavy = "psutil jinja2 click textual distwatch.diagnosis distwatch.report distwatch.observer".split()
agent = core.start()
agent.begin_step("from_pretrained", kind=LOAD, label="org/model")
before = [name for name in heavy if name in sys.modules]
told = distwatch.snapshot()
after = [name for name in ("psutil", "jinja2", "click", "textual", "torch") if name in sys.modules]
print(json.dumps({"before": before, "after": after, "told": told}))
"""


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """This process is in no run, and knows of that root."""
    for name in [name for name in os.environ if name.startswith("DISTWATCH")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(entry, "_entered", None)
    monkeypatch.setenv("DISTWATCH_DIR", str(root))


def test_it_is_what_the_command_prints(hung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTWATCH_RUN_ID", "hung")
    told = distwatch.snapshot()
    assert told == json.loads(call("status", "hung", "-o", "json", root=hung).stdout)
    assert told["schema"] == "distwatch.status/1"
    assert json.loads(json.dumps(told)) == told


def test_a_process_in_no_run_is_told_what_to_do(
    hung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSuchTarget, match=r"belongs to no run recorded under .* DISTWATCH_RUN_ID"):
        distwatch.snapshot()
    monkeypatch.setenv("DISTWATCH_RUN_ID", "nothing")
    with pytest.raises(NoSuchTarget, match=r"no run 'nothing'.*hung"):
        distwatch.snapshot()


def test_a_rank_sees_itself_and_loads_nothing_before(root: Path) -> None:
    environ = {
        **os.environ,
        "DISTWATCH": "1",
        "DISTWATCH_RUN_ID": "mine",
        "DISTWATCH_OBSERVER": "off",
        "RANK": "1",
        "WORLD_SIZE": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_A_RANK],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    heard = json.loads(done.stdout)
    assert (heard["before"], heard["after"]) == ([], [])
    told = heard["told"]
    assert told["run"]["id"] == "mine"
    assert told["run"]["world_size"] == 2
    unseen, own = told["ranks"]
    assert (unseen["state"], own["state"]) == ("unobserved", "loading")
    assert "org/model" in own["doing"]


def test_whoever_launched_the_ranks_sees_their_run(root: Path) -> None:
    """A notebook, say, whose children the ranks are."""
    folder = RunFolder(str(root / "r"))
    folder.create()
    rank = RankProcess(folder)
    try:
        rank.do("steps 2")
        told = distwatch.snapshot()
        assert told["run"]["id"] == "r"
        assert [one["pid"] for one in told["ranks"]] == [rank.pid]
    finally:
        rank.close()
