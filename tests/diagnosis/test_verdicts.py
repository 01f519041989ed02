"""The verdict on recorded jobs: right code, right culprits, root before symptom, no victim blamed."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.recorder_entries import Collective
from tests.diagnosis.recorded import (
    PEER_LOST,
    READING,
    SECOND,
    WAITING,
    RecordedJob,
    blamed,
    frame,
    hung_job,
    root,
)


@pytest.mark.parametrize(("world", "culprit"), [(2, 1), (4, 2), (8, 0)])
def test_a_rank_that_never_enters_a_collective(world: int, culprit: int) -> None:
    findings = diagnose(hung_job(world, culprit).state)
    verdict = root(findings)
    assert verdict.code == "collective.rank_missing"
    assert verdict.culprit_ranks == (culprit,)
    assert verdict.waiting_ranks == tuple(r for r in range(world) if r != culprit)
    assert "data.py:42 in read_shard" in verdict.summary
    assert "all_reduce #5 of default_pg" in verdict.summary


def test_within_the_deadline_nothing_is_found() -> None:
    assert diagnose(hung_job(waited=9.0).state) == []


def test_torchs_own_timeout_shortens_the_deadline() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1, timeout_s=6.0)
    job.pulse(0, at=15, groups={"0": (1, -1, 10.0)})
    job.pulse(1, at=15, groups={"0": (-1, -1, 0.0)})
    job.tick(15)
    assert root(diagnose(job.state)).culprit_ranks == (1,)


def test_a_stopped_rank_explains_those_who_wait_for_it() -> None:
    job = hung_job()
    job.sample(2, 30.5, "T")
    findings = diagnose(job.state)
    assert root(findings).code == "process.stopped"
    assert root(findings).waiting_ranks == (0, 1, 3)
    assert {f.role for f in findings[1:]} <= {"symptom"}
    assert blamed(findings) == {2}


def test_a_held_gil_is_told_by_the_heartbeat_and_the_stack() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.pulse(0, at=30, groups={"0": (5, 4, 10.0)})
    job.pulse(1, at=10, groups={"0": (4, 4, 9.0)})
    native = (frame("main", "/job/train.py", 3), frame("native_sleep", "/job/train.py", 30))
    job.stack(1, 30, native, owns_gil=True)
    job.sample(1, 30, "S")
    job.tick(30)
    findings = diagnose(job.state)
    assert root(findings).code == "process.gil_held"
    assert blamed(findings) == {1}
    assert "native_sleep" in root(findings).summary + root(findings).evidence[1].text


def test_ranks_that_never_started() -> None:
    job = RecordedJob(4)
    job.start(0, 1)
    for rank in (0, 1):
        job.begin(rank, 1, "init_process_group", 1.0)
    job.tick(5.0)
    assert diagnose(job.state) == []
    job.tick(12.0)
    findings = diagnose(job.state)
    assert root(findings).code == "rendezvous.rank_never_started"
    assert root(findings).culprit_ranks == (2, 3)
    assert root(findings).waiting_ranks == (0, 1)


def test_on_many_nodes_an_unseen_rank_may_be_elsewhere() -> None:
    job = RecordedJob(4, single_node=False)
    job.start(0, 1)
    job.begin(0, 1, "init_process_group", 1.0)
    job.begin(1, 1, "init_process_group", 1.0)
    job.tick(20.0)
    assert root(diagnose(job.state)).confidence < 0.9


def test_a_rank_that_died_before_it_arrived_is_known_at_once() -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.begin(0, 1, "init_process_group", 1.0)
    job.fail(1, 2.0, "ImportError", "no module named foo")
    job.exit(1, 2.1, code=1)
    findings = diagnose(job.state)
    assert root(findings).code == "rendezvous.rank_died"
    assert blamed(findings) == {1}
    assert "ImportError" in root(findings).summary


def test_a_rank_that_is_alive_but_elsewhere() -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    job.begin(0, 1, "init_process_group", 1.0)
    job.stack(1, 11.0, READING)
    job.tick(12.0)
    findings = diagnose(job.state)
    assert root(findings).code == "rendezvous.rank_missing"
    assert blamed(findings) == {1}
    assert "data.py:42 in read_shard" in root(findings).summary


def test_after_torchs_timeout_the_missing_rank_is_still_named() -> None:
    job = RecordedJob(3)
    job.start(0, 1)
    for rank in (0, 1):
        job.begin(rank, 1, "init_process_group", 1.0)
        job.say(rank, 6.0, ev.StepEnded(step=1, error="DistStoreError: Timed out after 6 seconds"))
        job.fail(rank, 6.0, "torch.distributed.DistStoreError", "Timed out after 6 seconds")
        job.exit(rank, 6.5, code=1)
    findings = diagnose(job.state)
    assert root(findings).code == "rendezvous.rank_never_started"
    assert blamed(findings) == {2}


def test_new_group_that_only_one_rank_calls() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.say(0, 2.0, ev.GroupCalled(number=1, members=(0, 1)))
    job.begin(0, 2, "new_group #1", 2.0)
    job.pulse(0, at=20, groups={"0": (0, 0, 2.0)})
    job.pulse(
        1, at=20, groups={"0": (1, -1, 2.0)}, operations=(job.operation(1, "barrier", 1, at=2),)
    )
    job.stack(1, 20, WAITING)
    job.tick(20)
    findings = diagnose(job.state)
    assert root(findings).code == "group.call_missing"
    assert root(findings).culprit_ranks == (1,)
    assert blamed(findings) == {1}, "rank 0 waits itself and is a victim of the barrier's wait"


def test_different_operations_under_one_number() -> None:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    for rank in range(3):
        op = "broadcast" if rank == 1 else "allreduce"
        inside = job.operation(rank, op, 3, at=10, site=1)
        job.say(
            rank, 10, ev.SiteSeen(number=1, site=ev.Site(file="/job/t.py", line=rank, function="f"))
        )
        job.pulse(rank, at=12, groups={"0": (3, 2, 10.0)}, operations=(inside,))
    job.tick(12)
    verdict = root(diagnose(job.state))
    assert verdict.code == "collective.op_mismatch"
    assert verdict.culprit_ranks == (1,)
    assert any("/job/t.py:1" in e.text for e in verdict.evidence)
    assert any("/job/t.py:0" in e.text for e in verdict.evidence)


def test_two_that_differ_are_both_named_with_less_confidence() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank, op in enumerate(("allgather", "barrier")):
        job.pulse(
            rank, at=12, groups={"0": (3, 2, 10.0)}, operations=(job.operation(rank, op, 3, at=10),)
        )
    job.tick(12)
    verdict = root(diagnose(job.state))
    assert verdict.code == "collective.op_mismatch"
    assert verdict.culprit_ranks == (0, 1)
    assert verdict.confidence < 0.9


def test_a_mismatch_that_aborts_explains_the_deaths() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank, numel in enumerate((100, 200)):
        inside = job.operation(rank, "allreduce", 1, at=10, numel=numel)
        job.pulse(rank, at=10.2, groups={"0": (1, -1, 10.0)}, operations=(inside,))
    job.exit(0, 10.5, signal=6)
    job.fail(1, 10.6, "RuntimeError", PEER_LOST)
    job.exit(1, 10.8, code=1)
    findings = diagnose(job.state)
    assert root(findings).code == "collective.shape_mismatch"
    assert all(f.role == "symptom" for f in findings[1:])


def test_a_load_without_progress() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.begin(1, 5, "from_pretrained", 5.0, label="/models/llama")
    job.begin(1, 6, "shards", 6.0, parent=5, total=7)
    job.say(1, 8.0, ev.StepProgressed(step=6, done=3, total=7, label="model-00003.safetensors"))
    job.pulse(0, at=20, groups={"0": (1, -1, 6.0)})
    job.pulse(1, at=8, groups={"0": (0, 0, 2.0)})
    job.sample(
        1,
        20,
        "D",
        wchan="folio_wait_bit_common",
        blocked_on="/models/llama/model-00003.safetensors",
    )
    job.tick(20)
    findings = diagnose(job.state)
    assert root(findings).code == "load.stalled"
    assert blamed(findings) == {1}
    assert "3 of 7" in root(findings).summary
    assert "model-00003.safetensors" in root(findings).summary


def test_a_slow_load_that_moves_is_no_finding() -> None:
    job = RecordedJob(1)
    job.initialize(0)
    job.begin(0, 5, "from_pretrained", 5.0)
    job.begin(0, 6, "shards", 6.0, parent=5, total=70)
    for shard in range(60):
        job.say(0, 6.0 + 20 * shard, ev.StepProgressed(step=6, done=shard, total=70))
        job.tick(6.0 + 20 * shard + 19)
        assert diagnose(job.state) == []


def test_a_rank_without_distwatch_is_named_by_elimination_and_less_surely() -> None:
    job = RecordedJob(3)
    job.initialize(0, 2)
    job.sight(1, 2.0)
    for rank in (0, 2):
        job.pulse(rank, at=30, groups={"0": (5, 4, 10.0)})
    job.stack(1, 29.0, READING)
    job.tick(30)
    verdict = root(diagnose(job.state))
    assert verdict.code == "collective.rank_missing"
    assert verdict.culprit_ranks == (1,)
    assert verdict.confidence <= 0.6
    assert any("without distwatch" in e.text for e in verdict.evidence)


def look_from_outside(job: RecordedJob, at: float, *frames: tuple[ev.Frame, ...]) -> None:
    """A look at each rank, in which its stack is as it was at 2 s."""
    for rank, stack in enumerate(frames):
        job.sight(rank, 1.0)
        thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=stack)
        since_ns = 2 * SECOND
        job.see(
            at, ev.StackTaken(process=job.key(rank), threads=(thread,), unchanged_since_ns=since_ns)
        )
    job.tick(at)


def test_a_job_without_agents_is_judged_by_its_stacks() -> None:
    job = RecordedJob(3)
    look_from_outside(job, 5.0, WAITING, WAITING, READING)
    assert diagnose(job.state) == []
    look_from_outside(job, 7.0, WAITING, WAITING, READING)
    verdict = root(diagnose(job.state))
    assert verdict.code == "collective.rank_missing"
    assert verdict.culprit_ranks == (2,)
    job.sample(2, 7.1, "S", syscall="read", blocked_on="/data/shard-3")
    verdict = root(diagnose(job.state))
    assert verdict.code == "process.data_stall"
    assert (verdict.culprit_ranks, verdict.waiting_ranks) == ((2,), (0, 1))


def test_ranks_without_agents_in_calls_that_differ() -> None:
    def inside(call: str) -> tuple[ev.Frame, ...]:
        return (WAITING[0], msgspec.structs.replace(WAITING[1], function=call))

    job = RecordedJob(3)
    look_from_outside(job, 7.0, *map(inside, ("all_reduce", "all_reduce", "all_gather")))
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.op_mismatch", (2,))
    assert "rank 2 is in all_gather" in verdict.summary
    job = RecordedJob(2)
    look_from_outside(job, 7.0, inside("recv"), inside("recv"))
    assert root(diagnose(job.state)).code == "p2p.cycle"
    job = RecordedJob(2)
    look_from_outside(job, 7.0, inside("all_reduce"), inside("all_reduce"))
    assert diagnose(job.state) == []


def test_who_waits_for_a_new_group_without_agents_is_not_blamed() -> None:
    job = RecordedJob(2)
    creating = (WAITING[0], msgspec.structs.replace(WAITING[1], function="new_group"))
    look_from_outside(job, 7.0, creating, READING)
    verdict = root(diagnose(job.state))
    assert (verdict.culprit_ranks, verdict.waiting_ranks) == ((1,), (0,))


def test_a_process_alone_that_waits_for_input() -> None:
    job = RecordedJob(1)
    look_from_outside(job, 7.0, READING)
    job.sample(0, 7.0, "S", syscall="read", blocked_on="/data/shard-3")
    assert diagnose(job.state) == [], "nobody waits for it, and a read may take its time"
    job.sample(0, 7.1, "S", syscall="read", blocked_on="stdin (/dev/pts/3)")
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.stdin_wait", (0,))


def test_ranks_that_never_started_of_a_job_without_agents() -> None:
    job = RecordedJob(4)
    creating = (WAITING[0], msgspec.structs.replace(WAITING[1], function="init_process_group"))
    look_from_outside(job, 7.0, creating, creating)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("rendezvous.rank_never_started", (2, 3))


def test_a_healthy_job_has_no_findings() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for second in range(2, 60):
        for rank in range(4):
            job.pulse(rank, at=second, groups={"0": (second, second - 1, second - 0.2)})
        job.tick(second)
        assert diagnose(job.state) == []


GLOO_TIMEOUT = (
    "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation"
)


def timed_out_job(late: float | None) -> RecordedJob:
    """Rank 0 times out in #2 at 16 s; rank 1 enters it `late` seconds after that, or never."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    inside = job.operation(0, "allreduce", 2, at=10, left=16)
    # The recorder calls a collective that failed completed.
    job.pulse(0, at=16, groups={"0": (2, 2, 16.0)}, operations=(inside,))
    job.fail(0, 16.0, "RuntimeError", GLOO_TIMEOUT)
    job.exit(0, 16.2, code=1)
    if late is None:
        job.pulse(1, at=16, groups={"0": (1, 1, 9.0)})
        job.stack(1, 15.0, READING)
        job.exit(1, 16.5, signal=15)
    else:
        at = 16 + late
        entered = job.operation(1, "allreduce", 2, at=at, left=at + 0.1)
        job.pulse(1, at=at, groups={"0": (2, 2, at)}, operations=(entered,))
        job.fail(1, at + 0.1, "RuntimeError", PEER_LOST)
        job.exit(1, at + 0.2, code=1)
    return job


def test_after_torchs_timeout_the_rank_that_was_missing_is_named() -> None:
    findings = diagnose(timed_out_job(late=None).state)
    assert root(findings).code == "collective.rank_missing"
    assert blamed(findings) == {1}
    assert "data.py:42 in read_shard" in root(findings).summary


def test_a_rank_that_comes_after_torchs_timeout_is_a_straggler() -> None:
    findings = diagnose(timed_out_job(late=8.0).state)
    assert root(findings).code == "collective.straggler"
    assert blamed(findings) == {1}
    assert "8.1 s" in root(findings).summary or "8.0 s" in root(findings).summary


def test_calls_that_only_the_recorder_saw_are_compared_too() -> None:
    """pt#33148: DDP's all_reduce comes from C++, the other rank's barrier from Python."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.pulse(
        0, at=12, groups={"0": (9, 8, 10.0)}, operations=(job.operation(0, "barrier", 9, at=10),)
    )
    job.pulse(1, at=12, groups={"0": (9, 8, 10.0)})
    for rank, op in enumerate(("gloo:barrier", "gloo:all_reduce")):
        entry = Collective(pg_name="0", seq=9, op=op, input_sizes=((20,),), input_dtypes=("Float",))
        job.say(rank, 12, ev.CollectivesDumped.of("test", (entry,)))
        job.stack(rank, 12, WAITING)
    job.tick(12)
    verdict = root(diagnose(job.state))
    assert verdict.code == "collective.op_mismatch"
    assert {"barrier", "all_reduce"} <= set(" ".join(e.text for e in verdict.evidence).split())
