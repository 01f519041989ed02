"""What a busy root has not taken yet blames nobody: one host's values may come much later than another's."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.events import Hearing
from tests.diagnosis.recorded import SECOND, RecordedJob, only_root


def two_hosts(*, known_until: float, beat: float = 20.0, now: float = 40.0) -> RecordedJob:
    """Rank 0 waits in #6 since 20 s, and is heard of until now; of rank 1, elsewhere, #5 is the newest.

    Args:
        known_until: what is known of rank 1's host is from then, by the root's clock.
    """
    job = RecordedJob(2, single_node=False)
    job.hosts = {0: "a", 1: "b"}
    job.initialize(0, 1)
    job.pulse(0, at=now, groups={"0": (6, 5, 20.0)})
    job.pulse(1, at=beat, groups={"0": (5, 5, 19.9)})
    job.see(now, ev.Ticked(host="a"), "a")
    job.see(max(40.0, known_until), ev.Ticked(host="b"), "b")
    hear(job, "a", now)
    hear(job, "b", known_until)
    return job


def hear(job: RecordedJob, host: str, until: float) -> None:
    at_ns = int(until * SECOND)
    job.state.hosts[host].hearing = Hearing(known_ns=at_ns + 7 * SECOND, upto_ns=at_ns)


def test_a_rank_of_which_the_news_is_under_way_is_not_blamed() -> None:
    for known_until in (20.0, 24.0):
        assert diagnose(two_hosts(known_until=known_until).state) == []


@pytest.mark.parametrize("known_until", [36.0, 40.0])
def test_once_enough_of_the_wait_is_known_of_it_it_is(known_until: float) -> None:
    job = two_hosts(known_until=known_until, beat=known_until)
    (found,) = diagnose(job.state)
    assert (found.code, found.culprit_ranks) == ("collective.rank_missing", (1,))
    assert found.waiting_ranks == (0,)


@pytest.mark.parametrize("now", [75.0, 200.0])
def test_a_verdict_is_not_taken_back_because_no_more_is_heard(now: float) -> None:
    (found,) = diagnose(two_hosts(known_until=40.0, beat=40.0, now=now).state)
    assert (found.code, found.culprit_ranks) == ("collective.rank_missing", (1,))


def test_where_no_link_delivers_it_everything_known_counts() -> None:
    job = two_hosts(known_until=20.0, beat=39.5)
    for host in job.state.hosts.values():
        host.hearing = None
    only_root(job, "collective.rank_missing", 1)


def test_a_heartbeat_that_is_under_way_is_not_missing() -> None:
    """Records overtake pulses: the host's clock is then ahead of what is known of its ranks."""
    job = two_hosts(known_until=39.8, beat=24.0)
    assert diagnose(job.state)[0].code == "process.gil_held"
    hear(job, "b", 24.5)
    assert diagnose(job.state) == []
