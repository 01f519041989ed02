"""Collectives of a process group beside the default one, by the pulses of its members."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob

SYNC = "weight_update"
DEADLINE_S = 300.0


def synced(*at: tuple[int, int, float], now: float = 400.0, own: float = 0.0) -> RecordedJob:
    """Ranks that have all joined the group, each with (enqueued, completed, since) in it.

    Args:
        own: since when rank 1 is in the second collective of its own world, which rank 0 never enters.
    """
    job = RecordedJob(len(at))
    job.initialize(*range(len(at)))
    for rank, progress in enumerate(at):
        joined = ev.ExtraGroupJoined(
            number=1, step=90 + rank, endpoint="10.0.0.1:29600", name=SYNC, group_rank=rank,
            size=len(at), of_name=1, via="process group",
        )  # fmt: skip
        job.say(rank, 2.0, joined)
        behind = own and rank != 1
        default = (2, 1, own) if own and not behind else (1, 1, 3.0)
        job.hold(rank, "0", tuple(range(len(at))), desc="default_pg")
        job.pulse(rank, at=now, groups={SYNC: progress, "0": default})
    job.tick(now)
    return job


def told(job: RecordedJob) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    return [
        (f.code, f.role, f.culprit_ranks, f.waiting_ranks)
        for f in diagnose(job.state)
        if f.pg_name == SYNC
    ]


def test_the_member_that_has_not_entered_is_the_culprit() -> None:
    job = synced((3, 2, 10.0), (2, 2, 9.0), (3, 2, 10.0))
    assert told(job) == [("collective.rank_missing", "root", (1,), (0, 2))]
    (finding,) = [f for f in diagnose(job.state) if f.pg_name == SYNC]
    assert finding.summary.startswith("rank 1 never entered collective #3 of group 'weight_update'")


def test_who_is_through_does_not_wait() -> None:
    """A receiver of a broadcast is done with it while the sender still waits for another receiver."""
    job = synced((3, 2, 10.0), (3, 3, 10.0), (2, 2, 9.0))
    assert told(job) == [("collective.rank_missing", "root", (2,), (0,))]


def test_within_the_deadline_and_where_all_have_entered_nothing_is_said() -> None:
    assert told(synced((3, 2, 390.0), (2, 2, 9.0))) == []
    assert told(synced((3, 3, 10.0), (2, 2, 9.0))) == []
    assert told(synced((3, 2, 10.0), (3, 2, 10.0))) == []


def test_nobody_is_blamed_while_a_member_is_not_observed() -> None:
    job = synced((3, 2, 10.0), (2, 2, 9.0))
    for process in job.state.processes.values():
        if process.global_rank == 1:
            process.outside.pulse = None
    assert told(job) == []


def test_a_member_that_waits_in_its_own_world_is_no_culprit() -> None:
    job = synced((3, 2, 10.0), (2, 2, 9.0), (3, 2, 10.0), own=9.0)
    assert told(job) == [("collective.rank_missing", "symptom", (), (0, 2))]
