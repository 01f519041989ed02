"""Jobs in which some ranks run without distwatch: they work as before, and reports say so."""

from __future__ import annotations

import re

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from tests.support.ranks import Job, launch_ranks
from tests.support.verdicts import assert_healthy


def results(job: Job) -> list[str]:
    return re.findall(r"^result.*$", job.output(), re.MULTILINE)


def test_a_job_computes_the_same_with_some_all_and_no_ranks_observed() -> None:
    computed = []
    for without in ([], [1], [0, 1]):
        with launch_ranks("healthy", 2, without_distwatch=without) as job:
            assert job.wait_ended() == [0, 0]
            computed.append(results(job))
            if len(without) == 1:
                job.wait_observer_ended()
                state = job.state()
                assert_healthy(diagnose(state))
                assert_healthy(job.judged_blocking())
                seen = {s.global_rank: s.instrumented for s in rank_statuses(state)}
                assert seen == {0: True, 1: False}
    assert len(computed[0]) == 2
    assert computed[0] == computed[1] == computed[2]


def test_the_missing_rank_is_the_one_without_distwatch() -> None:
    args = ("read", "1", "all_reduce")
    with launch_ranks("elsewhere", 2, without_distwatch=[1], args=args) as job:
        job.wait_step("stalled", {1})
        job.wait_step("waiting", {0})
        missing = ("process.data_stall", "collective.rank_missing")
        finding = job.wait_verdict(missing, {1}, mentions=("read_next_shard", "without distwatch"))
        assert finding.confidence <= 0.7
        assert finding.waiting_ranks == (0,)
