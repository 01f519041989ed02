"""What is left on disk when everything was killed at once."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import torchrun


@pytest.mark.parametrize("observer", [False, True], ids=["observer-lives", "observer-killed-too"])
def test_verdict_survives_the_end_of_every_rank_and_the_launcher(observer: bool) -> None:
    with torchrun("elsewhere", 3, args=("read", "2", "all_reduce")) as job:
        job.wait_step("stalled", {2})
        job.wait_step("waiting", {0, 1})
        job.wait_verdict("process.data_stall", {2}, mentions=("read_next_shard",))
        job.kill_everything(observer=observer)
        if not observer:
            job.wait_observer_ended()
        state = job.state()
        findings = diagnose(state)
        finding = next(f for f in findings if f.code == "process.data_stall")
        assert finding.culprit_ranks == (2,)
        assert finding.waiting_ranks == (0, 1)
        assert findings[0] is finding, "the hang stood before the end, which is its consequence"
        doing = {status.global_rank: status for status in rank_statuses(state)}
        assert set(doing) == {0, 1, 2}
        assert "read_next_shard" in doing[2].where


def test_verdict_without_any_observer() -> None:
    with torchrun(
        "elsewhere", 2, args=("read", "1", "all_reduce"), env={"DISTWATCH_OBSERVER": "off"}
    ) as job:
        job.wait_step("stalled", {1})
        job.wait_step("waiting", {0})
        job.wait_state(lambda state: len(diagnose(state)) > 0)
        job.kill_everything(observer=True)
        finding = diagnose(job.state())[0]
        assert (finding.code, finding.culprit_ranks) == ("collective.rank_missing", (1,))
        assert finding.waiting_ranks == (0,)
