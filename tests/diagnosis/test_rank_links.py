"""Whose the other end of a rank's connection is, and what connections decide."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import READING, RecordedJob, frame, root
from tests.diagnosis.test_from_outside import SECOND_LOOK, argue, inside, job_at


def connect(job: RecordedJob, one: int, other: int, *, unread: int = 0) -> None:
    """A connection within their host, as each of the two has it; the second one has not read so many bytes."""
    ends = f"127.0.0.1:4{one}{other}", "127.0.0.1:500"
    for rank, (local, peer), left in ((one, ends, 0), (other, ends[::-1], unread)):
        held = ev.Connection(local=local, peer=peer, state="established", unread_bytes=left)
        before = job.state.processes[job.key(rank)].outside.connections
        more = (*(before.held if before else ()), held)
        job.see(SECOND_LOOK, ev.ConnectionsSeen(process=job.key(rank), held=more))


def in_groups_of_their_own(world: int) -> RecordedJob:
    calling = inside("all_reduce")
    job = job_at(*[calling] * world)
    for rank in range(world):
        argue(job, rank, calling, group="given")
    return job


def test_connections_on_which_nothing_is_under_way_clear_the_network() -> None:
    job = in_groups_of_their_own(2)
    connect(job, 0, 1)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.op_mismatch", (0, 1))
    assert any("no data is on its way" in e.text for e in verdict.evidence)
    unread = in_groups_of_their_own(2)
    connect(unread, 0, 1, unread=3)
    partly = in_groups_of_their_own(3)
    connect(partly, 0, 1)
    rdma = in_groups_of_their_own(2)
    connect(rdma, 0, 1)
    port = ev.Port(name="mlx5_0/1", state="ACTIVE", was_up=True)
    rdma.see(SECOND_LOOK, ev.PortsSampled(host="node1", ports=(port,)))
    for other in (unread, partly, rdma):
        verdict = root(diagnose(other.state))
        assert (verdict.culprit_ranks, verdict.confidence) == ((), 0.4)


def reads_from(job: RecordedJob, rank: int, other: int) -> None:
    blocked_on = f"socket 127.0.0.1:4{rank}{other}→127.0.0.1:500"
    job.sample(rank, SECOND_LOOK, "S", syscall="recvfrom", blocked_on=blocked_on)
    connect(job, rank, other)


TALKING = (frame("main", "/job/train.py"), frame("ask", "/job/talk.py", 8))


def test_who_reads_from_another_ranks_socket_waits_for_that_rank() -> None:
    job = job_at(READING, TALKING, inside("barrier"))
    job.sample(0, SECOND_LOOK, "S", syscall="read", blocked_on="/data/shard-3")
    reads_from(job, 1, 0)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.data_stall", (0,))
    assert verdict.waiting_ranks == (1, 2)
    assert "rank 1 in a read from its connection to rank 0" in verdict.summary
    assert all(finding.culprit_ranks == (0,) for finding in diagnose(job.state))


def test_ranks_that_read_from_each_other() -> None:
    job = job_at(TALKING, TALKING)
    reads_from(job, 0, 1)
    held = job.state.processes[job.key(1)].outside.connections
    assert held is not None
    blocked_on = f"socket 127.0.0.1:500→{held.held[0].peer}"
    job.sample(1, SECOND_LOOK, "S", syscall="recvfrom", blocked_on=blocked_on)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("p2p.cycle", (0, 1))


def test_a_stranger_at_the_other_end_is_named() -> None:
    job = job_at(TALKING, inside("barrier"))
    blocked_on = "socket 127.0.0.1:44→127.0.0.1:6000"
    job.sample(0, SECOND_LOOK, "S", syscall="recvfrom", blocked_on=blocked_on)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.network_wait", (0,))
    assert "127.0.0.1:6000" in verdict.summary


def test_what_a_stopped_rank_has_not_read_is_evidence() -> None:
    job = job_at(inside("barrier"), inside("barrier"))
    job.sample(1, SECOND_LOOK, "T")
    connect(job, 0, 1, unread=36)
    verdict = root(diagnose(job.state))
    assert verdict.code == "process.stopped"
    told = [e.text for e in verdict.evidence if "not read" in e.text]
    assert told == ["rank 1 has not read 36 bytes from rank 0 (127.0.0.1:500 ← 127.0.0.1:401)"]
