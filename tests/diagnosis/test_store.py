"""The store that ranks meet in: out of reach, taken by another program, or gone."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, judged, only_root

CONNECT = "DistNetworkError: The client socket has timed out after 9000ms while trying to connect to (h, 1)."
IN_USE = (
    "DistNetworkError: The server socket has failed to listen on any local network address. "
    "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
)
GONE = (
    "DistNetworkError: recvValue failed on SocketImpl(fd=3): failed to recv, got 0 bytes. "
    "Connection was likely closed. Did the remote server shutdown or crash?"
)
FOREIGN = {"owner_pid": 77, "owner_command": ("python", "-m", "http.server", "29500")}


def on_two_hosts() -> RecordedJob:
    """Rank 0 hosts the store on node1, rank 1 looks for it from node2."""
    job = RecordedJob(2, single_node=False)
    job.stand(1, host="node2")
    job.start(0, 1)
    job.enter(0)
    job.enter(1, inner="rendezvous")
    return job


# ---- out of reach ---------------------------------------------------------------------------


def test_a_name_that_does_not_resolve_is_known_at_once() -> None:
    job = on_two_hosts()
    job.probe("unresolved", 1.5, host="node2", detail="'head' does not resolve")
    job.tick(1.6)
    verdict = only_root(job, "rendezvous.store_unreachable", 1)
    assert verdict.waiting_ranks == (0,)
    assert "node2" in verdict.summary
    assert "does not resolve" in verdict.summary
    job.refuse(1, 9.0, CONNECT)
    job.tick(60.0)
    only_root(job, "rendezvous.store_unreachable", 1)


def test_a_host_that_does_not_answer_is_given_five_seconds() -> None:
    job = on_two_hosts()
    job.probe("no_answer", 2.0, host="node2")
    job.tick(5.0)
    assert judged(job) == []
    job.tick(6.5)
    only_root(job, "rendezvous.store_unreachable", 1)


def test_a_rank_that_waits_before_a_store_that_listens_needs_no_look() -> None:
    job = on_two_hosts()
    job.probe(
        "error",
        2.0,
        host="node2",
        detail="not observed: the ranks are in another network namespace",
    )
    job.tick(9.0)
    assert judged(job) == []
    job.tick(12.0)
    assert only_root(job, "rendezvous.store_unreachable", 1).confidence < 0.9


def test_a_store_whose_host_is_stopped_blames_nobody_before_it() -> None:
    job = on_two_hosts()
    job.probe("silent", 2.0, host="node2")
    job.sample(0, 2.0, "T")
    job.tick(12.0)
    assert only_root(job, "process.stopped", 0).waiting_ranks == (1,)


def test_refused_while_rank_0_has_not_come_is_rank_0s_absence() -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.enter(1, inner="rendezvous")
    job.probe("refused", 2.0)
    job.tick(9.0)
    assert judged(job) == []
    job.tick(12.0)
    only_root(job, "rendezvous.rank_missing", 0)


def test_refused_while_rank_0_listens_elsewhere() -> None:
    job = on_two_hosts()
    job.probe("refused", 2.0, host="node2")
    job.tick(3.0)
    assert judged(job) == [], "rank 0 may have come after that look"
    job.tick(7.0)
    verdict = only_root(job, "rendezvous.store_unreachable", 1)
    assert "rank 0 runs on" in verdict.advice


def test_all_ranks_with_a_wrong_name() -> None:
    job = RecordedJob(2, single_node=False)
    job.start(0, 1)
    job.enter(0, 1, inner="rendezvous")
    job.probe("unresolved", 1.5)
    job.tick(60.0)
    only_root(job, "rendezvous.store_unreachable", 0, 1)


def test_who_cannot_reach_the_store_does_not_know_who_else_came() -> None:
    job = RecordedJob(4, single_node=False)
    job.start(2, 3)
    job.enter(2, 3, inner="rendezvous")
    job.probe("no_answer", 2.0)
    job.tick(60.0)
    only_root(job, "rendezvous.store_unreachable", 2, 3)


# ---- taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["foreign", "silent"])
def test_another_program_has_the_port(outcome: str) -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.enter(0)
    job.enter(1, inner="rendezvous")
    job.refuse(0, 1.1, IN_USE)
    job.tick(1.5)
    early = only_root(job, "rendezvous.port_taken")
    assert early.confidence < 0.9
    job.probe(outcome, 1.6, **FOREIGN)
    job.tick(3.5)
    verdict = only_root(job, "rendezvous.port_taken")
    assert "pid 77 on node1 (python -m http.server 29500)" in verdict.summary
    assert "kill 77" in verdict.advice
    assert verdict.waiting_ranks == (0, 1), "rank 0 cannot listen, rank 1 hears no store"
    assert verdict.severity == "crash"
    job.refuse(1, 20.0, CONNECT)
    only_root(job, "rendezvous.port_taken")


def test_a_store_of_another_job_has_the_port() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.probe("store", 1.5, owner_pid=88, owner_command=("python", "old.py"), clients=3)
    job.tick(3.0)
    verdict = only_root(job, "rendezvous.port_taken")
    assert "old.py" in verdict.summary
    assert verdict.severity == "hang"


def test_a_foreign_answer_before_rank_0_has_come() -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.enter(1, inner="rendezvous")
    job.probe("foreign", 1.5, detail="it answered b'HTTP'", **FOREIGN)
    job.tick(2.0)
    assert only_root(job, "rendezvous.port_taken").waiting_ranks == (1,)


@pytest.mark.parametrize("owner", [999, 1000], ids=["torchrun", "rank 0"])
def test_a_listener_of_our_own_takes_nothing(owner: int) -> None:
    job = RecordedJob(2)
    job.launch()
    job.enter(0, 1)
    job.probe("store", 1.5, owner_pid=owner)
    job.tick(5.0)
    assert judged(job) == []


def test_a_silent_listener_that_nobody_sees_is_less_sure() -> None:
    job = on_two_hosts()
    job.probe("silent", 1.5, host="node2")
    job.tick(2.0)
    assert judged(job) == []
    job.tick(4.0)
    assert only_root(job, "rendezvous.port_taken").confidence < 0.7


def test_a_port_that_was_taken_for_a_moment() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.refuse(0, 1.1, IN_USE, uncaught=False)
    job.enter(0, at=2.0, step=11, number=2)
    job.form(0, at=2.5, step=11)
    job.form(1)
    job.tick(9.0)
    assert judged(job) == []


# ---- gone --------------------------------------------------------------------------------------


def test_rank_0_that_hosts_the_store_is_killed() -> None:
    job = RecordedJob(3)
    job.start(0, 1, 2)
    job.enter(0, 1)
    job.probe("store", 1.5, owner_pid=1000)
    job.exit(0, 2.0, signal=9)
    job.tick(2.1)
    verdict = only_root(job, "rendezvous.store_lost", 0)
    assert verdict.waiting_ranks == (1,)
    assert "SIGKILL" in verdict.summary
    job.refuse(1, 2.3, GONE)
    job.tick(30.0)
    only_root(job, "rendezvous.store_lost", 0)  # rank 2 had its time still


def test_who_was_overdue_before_the_store_went_stays_the_root() -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    job.exit(0, 20.0, signal=9)
    job.refuse(1, 20.2, GONE)
    only_root(job, "rendezvous.rank_never_started", 2)
    told = {f.code for f in judged(job) if f.role == "symptom"}
    assert told == {"rendezvous.store_lost", "process.killed"}


def test_its_end_is_no_second_root() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.fail(0, 2.0, "ArithmeticError", "cannot divide")
    job.exit(0, 2.2, code=1)
    job.refuse(1, 2.3, GONE)
    verdict = only_root(job, "rendezvous.store_lost", 0)
    assert "ArithmeticError" in verdict.summary
    assert [f.code for f in judged(job) if f.role == "symptom"] == ["process.exited"]


def test_rank_0_that_gave_up_waiting_is_a_victim_like_the_others() -> None:
    job = RecordedJob(3)
    job.enter(0, 1)
    job.refuse(
        0, 10.0, "DistStoreError: Timed out after 9 seconds waiting for clients. 2/3 joined."
    )
    job.refuse(1, 10.3, GONE)
    job.tick(11.0)
    only_root(job, "rendezvous.rank_never_started", 2)


def test_torchruns_agent_that_hosts_the_store_is_gone() -> None:
    job = RecordedJob(2)
    for rank in (0, 1):
        job.stand(rank, agent_store=True)
    launcher = job.launch()
    job.start(0, 1)
    job.enter(0, 1, inner="new_process_group")
    job.probe("store", 1.5, owner_pid=999)
    job.see(2.0, ev.ExitSeen(process=launcher, signal=9))
    for rank in (0, 1):
        job.refuse(rank, 2.2, GONE)
    verdict = only_root(job, "rendezvous.store_lost")
    assert verdict.waiting_ranks == (0, 1)
    assert "torchrun" in verdict.summary
    assert "SIGKILL" in verdict.summary


def test_a_store_that_answered_and_is_refused_now() -> None:
    job = RecordedJob(2)
    for rank in (0, 1):
        job.stand(rank, agent_store=True)
    job.start(0, 1)
    job.enter(0, 1, inner="new_process_group")
    job.probe("store", 1.5, owner_pid=999)
    job.probe("refused", 2.5)
    job.tick(4.0)
    assert only_root(job, "rendezvous.store_lost").waiting_ranks == (0, 1)


def test_a_job_that_is_ended_as_a_whole_has_not_lost_its_store() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    for rank in (0, 1):
        job.exit(rank, 3.0 + rank / 10, signal=15)
    assert {f.severity for f in judged(job)} <= {"info"}


def test_rank_0_that_ends_well_when_all_have_met_takes_nothing_away() -> None:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.form(0, 1)
    job.exit(0, 9.0, code=0)
    job.tick(10.0)
    assert judged(job) == []


def test_a_duplicate_that_waits_on_where_the_others_met_and_left() -> None:
    job = RecordedJob(3)
    job.stand(10, global_rank=1)
    job.enter(0, 1, 2, 10)
    job.form(0, 1, 2)
    for rank in (0, 1, 2):
        job.exit(rank, 4.0, code=0)
    job.refuse(10, 4.1, GONE)
    only_root(job, "rendezvous.rank_duplicated", 1)
