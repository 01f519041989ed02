"""DISTWATCH_ON_HANG=abort under a real elastic torchrun: hang, incident, restart, and training goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distwatch.report.document import build_report
from distwatch.report.markdown import render_markdown
from distwatch.state import events as ev
from distwatch.state.model import RunState
from tests.support.ranks import torchrun

CAUSES = ("collective.rank_missing", "process.stopped", "process.data_stall", "process.livelock")


def over_told(state: RunState) -> bool:
    return any(phase == "over" for host in state.hosts.values() for phase, _ in host.notified)


@pytest.mark.parametrize(("how", "code"), [("sleep", 75), ("stop", -9)])
def test_the_culprit_ends_and_the_restarted_job_trains_on(
    how: str, code: int, tmp_path: Path
) -> None:
    env = {
        "DISTWATCH_ON_HANG": "abort",
        "DISTWATCH_DEADLINES": "init=60,group=60,load=60,collective=4",
        "DISTWATCH_NOTIFY": f'cat > "{tmp_path}/$DISTWATCH_PHASE"',
        # torch 2.13's agent keeps its store over a restart, and gloo then finds the dead ranks' addresses.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    options = ["--standalone", "--max-restarts=1"]
    with torchrun("restarted", 2, env=env, args=[how], options=options) as job:
        job.wait_step("trained in attempt 1", {0, 1}, timeout_s=100)
        assert job.wait_ended() == [0]
        state = job.wait_state(over_told)
        report = json.loads(Path(job.folder.incidents, "1", "report.json").read_text())
        root = report["findings"][0]
        assert (root["severity"], root["culprit_ranks"]) == ("hang", [1])
        assert root["code"] in CAUSES
        orders = [e.event for e in state.timeline if isinstance(e.event, ev.RankAborted)]
        assert [order.how for order in orders] == ["asked", *(["killed"] if code < 0 else [])]
        assert {order.global_rank for order in orders} == {1}
        (ended,) = [p.outside.exit for p in state.processes.values() if p.outside.aborted]
        assert ended is not None
        assert (ended.exit_code, ended.signal) == ((75, None) if code > 0 else (None, 9))
        text = render_markdown(build_report(state, [], job.folder.run_id))
        assert "attempt 1): hang: rank 1" in text
        told = json.loads((tmp_path / "new").read_text())
        assert told["findings"][0]["culprit_ranks"] == [1]
        assert {path.name for path in tmp_path.iterdir()} == {"new", "recovered"}
