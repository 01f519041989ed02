"""Hosts that are not seen: said, counted, and nobody there is blamed for what nobody saw."""

from __future__ import annotations

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.host_links import host_count, unseen_hosts
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.diagnosis.verdict.unlinked_hosts import discount_unlinked
from distwatch.report.document import build_report
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.tui.picture import take_picture
from distwatch.tui.verdict import coverage_line
from tests.diagnosis.recorded import HOST, RecordedJob

AT = 40.0


def stuck_job() -> RecordedJob:
    """Ranks 0 and 2 wait in #4 for rank 1, which is on node2."""
    job = RecordedJob(3, launcher="env")
    job.local = 1
    for rank, host in enumerate((HOST, "node2", "node3")):
        job.stand(rank, host=host, local_world_size=1)
    job.initialize(0, 1, 2)
    for rank in range(3):
        entered = 3 if rank == 1 else 4
        job.pulse(rank, at=AT, groups={"0": (entered, 3, 5.0)})
    for host in (HOST, "node2", "node3"):
        job.see(AT, ev.Ticked(host=host), host)
    return job


def link(
    job: RecordedJob, peer: str, at: float, *, linked: bool = False, ended: bool = False
) -> None:
    changed = ev.LinkChanged(
        host=HOST, peer=peer, linked=linked, ended=ended, why="nothing came for 5 s", silent_s=5.0
    )
    job.see(at, changed)


def test_who_is_seen_is_blamed() -> None:
    job = stuck_job()
    link(job, "node2", 2.0, linked=True)
    first = diagnose(job.state)[0]
    assert (first.code, first.culprit_ranks) == ("collective.rank_missing", (1,))
    assert unseen_hosts(job.state) == {}
    assert host_count(job.state) == (3, 3)


def test_who_is_not_seen_is_not() -> None:
    job = stuck_job()
    link(job, "node2", AT - 7)
    first = diagnose(job.state)[0]
    assert (first.code, first.culprit_ranks) == ("collective.rank_missing", ())
    assert first.confidence < 0.5
    assert "node2 was last seen 12 s ago: nothing came for 5 s" in first.summary
    assert host_count(job.state) == (2, 3)


def test_who_was_lost_before_it_had_formed_its_world_is_not_blamed_either() -> None:
    job = RecordedJob(3, launcher="env")
    for rank, host in enumerate((HOST, "node2", "node3")):
        job.stand(rank, host=host, local_world_size=1)
    job.enter(1)
    job.initialize(0, 2)
    for rank in (0, 2):
        job.pulse(rank, at=AT, groups={"0": (4, 3, 5.0)})
        job.see(AT, ev.Ticked(host=job.host(rank)), job.host(rank))
    link(job, "node2", AT - 7)
    first = diagnose(job.state)[0]
    assert (first.role, first.culprit_ranks, first.waiting_ranks) == ("root", (), (0, 2))
    assert "rank 1 cannot be seen now: node2 was last seen 12 s ago" in first.summary


def test_what_unseen_ranks_lost_is_not_known() -> None:
    """They were in a call with rank 0 when they were last seen; it may have ended well since."""
    job = stuck_job()
    lost = Finding(
        code="rendezvous.store_lost", severity="crash", role="root", culprit_ranks=(0,), waiting_ranks=(1, 2),
        summary="the store is gone", advice="a", confidence=0.9,
    )  # fmt: skip
    link(job, "node2", AT - 7)
    (seen,) = discount_unlinked(Case(job.state), [lost])
    assert (seen.severity, seen.confidence) == ("crash", 0.9), "rank 2 is seen, and has lost it"
    link(job, "node3", AT - 6)
    (unseen,) = discount_unlinked(Case(job.state), [lost])
    assert unseen.severity == "warning"
    assert unseen.confidence < 0.5
    assert "ranks 1-2 cannot be seen now" in unseen.summary


def test_another_host_that_is_lost_changes_nothing() -> None:
    job = stuck_job()
    link(job, "node3", AT - 7)
    assert diagnose(job.state)[0].culprit_ranks == (1,)


def test_hosts_are_seen_through_any_root_of_their_rack_that_is_seen() -> None:
    job = stuck_job()
    upwards = ev.LinkChanged(host="node2", peer="10.0.0.1:29600", linked=True)
    job.see(1.0, upwards, "node2")
    job.see(2.0, ev.LinkChanged(host="node2", peer="node3", linked=True), "node2")
    link(job, "node3", 3.0)  # it went to node2, the root of its rack
    link(job, "node2", 3.0, linked=True)
    assert unseen_hosts(job.state) == {}
    link(job, "node2", AT - 7)
    assert set(unseen_hosts(job.state)) == {"node2", "node3"}
    link(job, "node3", AT - 5, linked=True)  # it came back
    assert set(unseen_hosts(job.state)) == {"node2"}


def test_who_has_ended_at_the_root_of_its_rack_is_not_missed() -> None:
    job = stuck_job()
    link(job, "node2", 3.0, linked=True)
    sent = ev.LinkChanged(host=HOST, peer="node3", linked=False, goes_to="10.0.0.2:29600")
    job.see(3.0, sent)
    assert set(unseen_hosts(job.state)) == {"node3"}, "it is under way"
    job.see(4.0, ev.LinkChanged(host="node2", peer="node3", linked=True), "node2")
    assert unseen_hosts(job.state) == {}
    ended = ev.LinkChanged(host="node2", peer="node3", linked=False, ended=True)
    job.see(5.0, ended, "node2")
    assert unseen_hosts(job.state) == {}
    assert host_count(job.state) == (3, 3)
    link(job, "node3", AT - 7)  # it had come back before, and was lost
    assert set(unseen_hosts(job.state)) == {"node3"}


def test_an_end_that_was_seen_stays_one() -> None:
    job = stuck_job()
    key = job.key(1)
    job.see(AT - 10, ev.ExitSeen(process=key, exit_code=3, how="watched"), "node2")
    link(job, "node2", AT - 7)
    first = diagnose(job.state)[0]
    assert (first.severity, first.culprit_ranks) == ("crash", (1,))


def test_an_observer_that_took_its_leave_is_no_loss() -> None:
    job = stuck_job()
    link(job, "node2", AT - 7, ended=True)
    assert unseen_hosts(job.state) == {}


def test_an_observer_of_one_host_of_several_blames_nobody_whom_it_has_not_seen() -> None:
    def blamed(*, linked: bool, local: int | None = 1, launcher: str = "env") -> tuple[int, ...]:
        job = RecordedJob(3, launcher=launcher)
        job.local = local
        job.initialize(2)
        job.pulse(2, at=AT, groups={"0": (4, 3, 5.0)})
        if linked:
            job.see(2.0, ev.LinkChanged(host=HOST, peer="10.0.0.1:29600", linked=True))
        job.see(AT, ev.Ticked(host=HOST))
        return tuple(r for f in diagnose(job.state) if f.blocks for r in f.culprit_ranks)

    assert blamed(linked=True) == ()
    # Which of two on other hosts it is, an observer without a link cannot know.
    assert blamed(linked=False) == ()
    assert blamed(linked=False, launcher="ray") == ()
    # Variables set by hand say not how many are here.
    assert blamed(linked=False, local=None) == ()
    # All on this host: no process of theirs is here, and that is known.
    assert blamed(linked=False, local=3) == (0, 1)


def test_the_one_rank_that_is_left_is_blamed_wherever_it_is() -> None:
    job = RecordedJob(2, launcher="env")
    job.local = 1
    job.initialize(1)
    job.pulse(1, at=AT, groups={"0": (4, 3, 5.0)})
    job.see(AT, ev.Ticked(host=HOST))
    assert diagnose(job.state)[0].culprit_ranks == (0,)


def test_views_say_which_host_is_not_seen() -> None:
    job = stuck_job()
    link(job, "node2", AT - 7)
    coverage = build_report(job.state, [], "r").coverage
    assert (coverage.observed_hosts, coverage.expected_hosts) == (2, 3)
    assert coverage.not_observed["host node2"].startswith("last seen 12 s ago")
    line = coverage_line(take_picture(job.state, "r")).plain
    assert "2/3 hosts seen" in line
    assert "host node2: last seen 12 s ago" in line


def test_what_no_host_has_is_said_once() -> None:
    job = stuck_job()
    for host in (HOST, "node2", "node3"):
        job.see(AT, ev.DevicesSampled(host=host, not_observed="no driver"), host)
    job.see(AT, ev.NotObserved(host="node2", what="link", why="no token"), "node2")
    line = coverage_line(take_picture(job.state, "r")).plain
    assert "devices on every host: no driver" in line
    assert "link on node2: no token" in line
    assert line.count("no driver") == 1


def test_the_verdict_of_who_sees_all_stands() -> None:
    job = stuck_job()
    first = diagnose(job.state)[0]
    job.see(AT, ev.FindingsJudged(host=HOST, findings=(first,)))
    # The leaf's clock is far ahead, and it saw one host alone.
    job.see(9 * AT, ev.FindingsJudged(host="node3", of_one_host=True), "node3")
    assert job.state.recorded_findings == (first,)
