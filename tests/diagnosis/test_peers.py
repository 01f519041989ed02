"""Sends and recvs: matched by pair, tag and order, from counts and the operations ring."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.state import events as ev
from tests.diagnosis.recorded import READING, RecordedJob, frame, judged, only_root

IN_RECV = (
    frame("main", "/job/train.py", 9),
    frame("recv", "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", 2000),
)


def posted(op: str, peer: int, count: int, tag: int = 0) -> ev.PeerProgress:
    return ev.PeerProgress(pg_name="0", op=op, peer=peer, tag=tag, posted=count)  # type: ignore[arg-type]


def job_of(world: int) -> RecordedJob:
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in range(world):
        job.sample(rank, 30, "S")
        job.stack(rank, 30, IN_RECV)
    return job


def test_a_recv_whose_peer_has_sent_less_is_its_peers_fault() -> None:
    job = job_of(2)
    job.pulse(0, at=30, peers=(posted("send", 1, 2),))
    job.stack(0, 30.1, (frame("main", "/job/train.py", 9), frame("evaluate", "/job/eval.py", 4)))
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=3),))
    job.tick(31)
    finding = only_root(job, "p2p.unmatched", 0)
    assert finding.waiting_ranks == (1,)
    assert "has posted 2 sends to rank 1, but 3 are needed" in str(finding.evidence)


def test_a_rank_in_a_recv_is_shown_as_waiting_in_it() -> None:
    job = job_of(2)
    job.pulse(0, at=30)
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=3, tag=5),))
    job.tick(31)
    words = [(status.word, status.doing) for status in rank_statuses(job.state)]
    assert words[1] == ("waiting", "recv #3 from rank 0, tag 5")


def test_a_recv_that_its_peer_has_answered_is_no_wait() -> None:
    job = job_of(2)
    job.pulse(0, at=30, peers=(posted("send", 1, 3),))
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=3),))
    job.tick(31)
    assert judged(job) == []


def test_a_recv_within_its_deadline_is_no_finding() -> None:
    job = job_of(2)
    job.pulse(0, at=30)
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=28, posted=1),))
    job.tick(31)
    assert judged(job) == []


def test_a_send_that_was_posted_before_other_work_holds_up_nobody() -> None:
    job = job_of(2)
    job.pulse(0, at=30)
    later = job.operation(1, "allreduce", 1, at=11, left=12, number=2)
    job.pulse(
        1,
        at=30,
        groups={"0": (1, 1, 12)},
        operations=(job.peer(1, "send", 0, at=10, posted=1), later),
    )
    job.tick(31)
    assert judged(job) == []


def test_an_asynchronous_recv_of_a_rank_that_reads_data_is_not_what_it_waits_for() -> None:
    job = job_of(3)
    job.pulse(0, at=30, operations=(job.peer(0, "recv", 1, at=10, posted=1),))
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 2, at=10, posted=1),))
    job.pulse(2, at=30)
    # Rank 1 has posted a recv from 2, and is in fact blocked in a read of its own.
    job.stack(1, 30.2, READING)
    job.sample(1, 30.2, "S", syscall="read", blocked_on="/data/shard-1")
    job.tick(31)
    finding = only_root(job, "process.data_stall", 1)
    assert finding.waiting_ranks == (0,)


@pytest.mark.parametrize("ops", [("recv", "recv"), ("send", "send")])
def test_two_ranks_that_wait_for_each_other_are_a_circle(ops: tuple[str, str]) -> None:
    job = job_of(3)
    job.pulse(0, at=30, operations=(job.peer(0, ops[0], 1, at=10, posted=1),))
    job.pulse(1, at=30, operations=(job.peer(1, ops[1], 0, at=10, posted=1),))
    job.pulse(2, at=30, operations=(job.peer(2, "recv", 1, at=11, posted=1),))
    job.tick(31)
    finding = only_root(job, "p2p.cycle", 0, 1)
    assert finding.waiting_ranks == (2,)


def test_the_same_pair_with_two_tags_is_unmatched_not_a_circle() -> None:
    job = job_of(2)
    job.pulse(0, at=30, operations=(job.peer(0, "send", 1, at=10, posted=1, tag=7),))
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=1, tag=8),))
    job.tick(31)
    assert "tag 7" in only_root(job, "p2p.unmatched", 0, 1).summary


def test_a_peer_that_was_never_seen_inside_is_named_with_less_confidence() -> None:
    job = RecordedJob(2)
    job.initialize(1)
    job.sight(0, 1)
    job.stack(0, 30, (frame("main", "/job/train.py", 9),))
    job.sample(0, 30, "S")
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=1),))
    job.stack(1, 30, IN_RECV)
    job.sample(1, 30, "S")
    job.tick(31)
    finding = only_root(job, "p2p.unmatched", 0)
    assert finding.confidence < 0.7


def test_a_peer_that_ended_is_the_cause_and_the_recv_is_not() -> None:
    job = job_of(2)
    job.pulse(0, at=20)
    job.fail(0, 20, "ValueError", "boom")
    job.exit(0, 20.2, code=1)
    job.pulse(1, at=30, operations=(job.peer(1, "recv", 0, at=10, posted=1),))
    job.tick(31)
    finding = only_root(job, "process.exited", 0)
    assert finding.waiting_ranks == (1,)


def test_a_recv_that_timed_out_blames_the_peer_that_never_sent() -> None:
    job = job_of(2)
    job.pulse(0, at=30)
    job.stack(0, 30.1, (frame("main", "/job/train.py", 9), frame("evaluate", "/job/eval.py", 4)))
    job.pulse(1, at=16, operations=(job.peer(1, "recv", 0, at=10, posted=1, left=16),))
    words = "Timed out waiting 6000ms for recv operation to complete"
    job.fail(1, 16, "RuntimeError", f"[gloo/transport/tcp/unbound_buffer.cc:78] {words}")
    job.exit(1, 16.5, code=1)
    job.tick(31)
    only_root(job, "p2p.unmatched", 0)
