"""Jobs in which no rank has distwatch: verdicts on stacks, arguments and what main threads have run since."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import READING, SECOND, WAITING, RecordedJob, frame, root

C10D = WAITING[1].file
LIBRARY = "/venv/lib/python3.11/site-packages/transformers/modeling_utils.py"
FIRST, SECOND_LOOK = 2.0, 7.0


def inside(call: str, line: int = 9) -> tuple[ev.Frame, ...]:
    return (frame("main", "/job/train.py", line), frame(call, C10D, 3000))


def job_at(
    *stacks: tuple[ev.Frame, ...], ran_at: float = FIRST, beside: tuple[ev.Frame, ...] = ()
) -> RecordedJob:
    """Ranks that were looked at twice, with these stacks both times; their threads last ran at `ran_at`.

    Args:
        beside: the stack of a second thread of each rank.
    """
    job = RecordedJob(len(stacks))
    for rank, frames in enumerate(stacks):
        job.sight(rank, 1.0)
        thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=frames)
        taken = ev.StackTaken(
            process=job.key(rank),
            threads=(thread, *([ev.ThreadStack(name="saver", frames=beside)] if beside else ())),
            unchanged_since_ns=int(FIRST * SECOND),
            settled_since_ns=int(FIRST * SECOND),
            settled_cpu_s=0.0,
            asleep_since_ns=int(ran_at * SECOND),
        )
        job.see(SECOND_LOOK, taken)
    job.tick(SECOND_LOOK)
    return job


def argue(job: RecordedJob, rank: int, frames: tuple[ev.Frame, ...], **arguments: str) -> None:
    arguments = {"group": "default", **arguments}
    job.see(
        SECOND_LOOK,
        ev.ArgumentsRead(process=job.key(rank), frames=frames, arguments=arguments),
    )


def test_a_loop_that_is_always_seen_in_the_same_call_moves() -> None:
    stacks = inside("all_reduce"), READING
    assert root(diagnose(job_at(*stacks).state)).culprit_ranks == (1,)
    assert diagnose(job_at(*stacks, ran_at=6.5).state) == []


def test_a_rank_that_goes_on_from_function_to_function_moves() -> None:
    job = job_at(inside("barrier"), READING)
    thread = ev.ThreadStack(name="MainThread", os_thread_id=1001, frames=READING)
    since_ns = int(6.5 * SECOND)
    moved = ev.StackTaken(
        process=job.key(1),
        threads=(thread,),
        unchanged_since_ns=since_ns,
        settled_since_ns=since_ns,
    )
    job.sample(1, SECOND_LOOK, "S", syscall="read", blocked_on="/data/shard-3")
    assert root(diagnose(job.state)).code == "process.data_stall"
    job.see(SECOND_LOOK + 0.1, moved)
    assert diagnose(job.state) == []


def test_a_group_that_not_all_create() -> None:
    creating = inside("new_group")
    for other in (inside("barrier"), READING):
        job = job_at(creating, other, other)
        argue(job, 0, creating, ranks="[0, 1]", group_name="3")
        verdict = root(diagnose(job.state))
        assert (verdict.code, verdict.culprit_ranks) == ("group.call_missing", (1, 2))
        assert "new_group #3 ([0, 1])" in verdict.summary


def test_a_group_that_is_created_under_two_names() -> None:
    creating = inside("new_group")
    job = job_at(creating, creating, creating)
    for rank, name in enumerate(("7", "7", "8")):
        argue(job, rank, creating, group_name=name)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("group.counter_skew", (2,))
    same = job_at(creating, creating)
    for rank in (0, 1):
        argue(same, rank, creating, group_name="7")
    assert diagnose(same.state) == []


def test_roots_that_differ() -> None:
    calling = inside("broadcast")
    job = job_at(calling, calling, calling)
    for rank, src in enumerate("001"):
        argue(job, rank, calling, src=src)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.root_disagrees", (2,))
    assert "broadcast with src=1" in verdict.summary


def send_and_recv(tag: str, dst: str = "1") -> RecordedJob:
    job = job_at(inside("send"), inside("recv"))
    argue(job, 0, inside("send"), dst=dst, tag="1")
    argue(job, 1, inside("recv"), src="0", tag=tag)
    return job


def test_a_tag_that_differs() -> None:
    verdict = root(diagnose(send_and_recv("2").state))
    assert (verdict.code, verdict.culprit_ranks) == ("p2p.unmatched", (0, 1))
    assert "one uses tag 1, the other tag 2" in verdict.summary


def test_a_send_and_its_recv_are_not_blamed_on_each_other() -> None:
    assert diagnose(send_and_recv("1").state) == []


def test_who_waits_for_a_rank_in_a_send_is_not_blamed() -> None:
    """Rank 2 waits in a barrier for rank 1, and that one in a recv for rank 0, which is elsewhere."""
    job = job_at(READING, inside("recv"), inside("barrier"))
    argue(job, 1, inside("recv"), src="0")
    argue(job, 2, inside("barrier"))
    verdict = root(diagnose(job.state))
    assert (verdict.culprit_ranks, verdict.waiting_ranks) == ((0,), (1, 2))
    assert all(finding.culprit_ranks == (0,) for finding in diagnose(job.state))


def test_arguments_of_an_earlier_place_do_not_count() -> None:
    job = job_at(inside("send"), inside("recv"))
    argue(job, 0, inside("send", line=8), dst="1", tag="1")
    argue(job, 1, inside("recv"), src="0", tag="2")
    assert all(
        finding.culprit_ranks != (0, 1) or finding.code != "p2p.unmatched"
        for finding in diagnose(job.state)
    )


def test_an_asynchronous_call_blames_nobody_but_a_rank_that_is_elsewhere() -> None:
    waiting = (frame("step", "/job/train.py", 12),)
    for others, culprits in (((inside("barrier"),) * 2, ()), ((inside("barrier"), READING), (2,))):
        job = job_at(waiting, *others)
        job.sample(0, SECOND_LOOK, "S", syscall="futex")
        line = ev.SourceLine(file="/job/train.py", line=12, text="request.wait()")
        job.see(SECOND_LOOK, ev.SourcesRead(host="node1", lines=(line,)))
        assert root(diagnose(job.state)).culprit_ranks == culprits


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_beyond_the_world(rank: int) -> None:
    creating = inside("init_process_group")
    job = RecordedJob(1)
    job.stand(rank, global_rank=rank, world_size=1)
    job.sight(rank, 1.0)
    thread = ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=creating)
    job.see(
        SECOND_LOOK,
        ev.StackTaken(
            process=job.key(rank), threads=(thread,), unchanged_since_ns=int(FIRST * SECOND)
        ),
    )
    job.tick(SECOND_LOOK)
    codes = [finding.code for finding in diagnose(job.state)]
    assert codes == (["rendezvous.rank_out_of_range"] if rank else [])


def test_a_port_that_another_program_has_explains_that_rank_0_is_gone() -> None:
    creating = inside("init_process_group")
    job = RecordedJob(2)
    job.sight(1, 1.0)
    thread = ev.ThreadStack(name="MainThread", os_thread_id=1001, frames=creating)
    job.see(
        SECOND_LOOK,
        ev.StackTaken(
            process=job.key(1), threads=(thread,), unchanged_since_ns=int(FIRST * SECOND)
        ),
    )
    job.probe("silent", SECOND_LOOK, owner_pid=77, owner_command=("python", "-m", "http.server"))
    job.tick(SECOND_LOOK)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("rendezvous.port_taken", ())
    assert "pid 77" in verdict.summary
    assert [f.role for f in diagnose(job.state)[1:]] == ["symptom"]


def test_two_threads_in_collectives_and_a_main_thread_that_joins_one() -> None:
    saving = (frame("save", "/job/save.py"), frame("all_gather_object", C10D))
    joining = (frame("main", "/job/train.py"), frame("join", "/usr/lib/python3.11/threading.py"))
    job = job_at(joining, inside("barrier"), beside=saving)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.concurrent_threads", (0, 1))
    assert "rank 1 is in barrier and all_gather_object" in verdict.summary
    # A saver with a group of its own is no fault where a rank is elsewhere.
    elsewhere = job_at(inside("barrier"), READING)
    assert root(diagnose(elsewhere.state)).culprit_ranks == (1,)


def test_groups_of_their_own_are_a_hang_that_blames_nobody() -> None:
    calling = inside("all_reduce")
    job = job_at(calling, calling)
    assert diagnose(job.state) == []
    for rank in (0, 1):
        argue(job, rank, calling, group="given")
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("collective.op_mismatch", ())
    assert verdict.waiting_ranks == (0, 1)
    moving = job_at(calling, calling, ran_at=6.5)
    assert diagnose(moving.state) == []


def a_launcher(
    joined: int | None, *, at: float, ranks: bool = False, limit_s: float | None = None
) -> RecordedJob:
    job = RecordedJob(2)
    key = "node1-999.3"
    sighted = ev.ProcessSighted(
        process=key, host="node1", pid=999, start_ticks=3, ppid=1, role="launcher",
        identity=Identity(), command=("torchrun", "--nnodes=2"),
    )  # fmt: skip
    job.see(1.0, sighted)
    if ranks:
        job.sight(0, 1.0)
    looked = ev.RendezvousLooked(
        process=key, host="node1", endpoint="n1:7", backend="c10d", nodes_needed=2,
        nodes_joined=joined, nodes=("n1 (pid 999)",), waits_since_ns=SECOND,
        limit_s=limit_s,
    )  # fmt: skip
    job.see(at, looked)
    job.tick(at)
    return job


def test_a_node_that_torchrun_waits_for() -> None:
    verdict = root(diagnose(a_launcher(1, at=6.0).state))
    assert (verdict.code, verdict.culprit_ranks) == ("rendezvous.node_missing", ())
    assert "waits for 1 node of 2; 1 has joined at n1:7: n1 (pid 999)" in verdict.summary
    assert diagnose(a_launcher(1, at=3.0).state) == [], "nobody has waited for long yet"
    assert diagnose(a_launcher(1, at=6.0, limit_s=9.0).state) == [], "its deadline has not passed"
    assert diagnose(a_launcher(1, at=11.0, limit_s=9.0).state) != []
    assert diagnose(a_launcher(2, at=6.0).state) == []
    assert diagnose(a_launcher(None, at=6.0).state) == [], "missing is not zero"
    assert diagnose(a_launcher(1, at=6.0, ranks=True).state) == []


def test_an_engine_without_requests_is_idle() -> None:
    job = job_at(READING, inside("broadcast"))
    job.sample(0, SECOND_LOOK, "S", syscall="select", blocked_on="socket listening on 0.0.0.0:8000")
    assert diagnose(job.state) == []
    job = job_at(READING, inside("barrier"))
    job.sample(0, SECOND_LOOK, "S", syscall="select", blocked_on="socket listening on 0.0.0.0:8000")
    assert root(diagnose(job.state)).culprit_ranks == (0,)


def test_a_load_that_stands_still_is_judged_as_a_load() -> None:
    loading = (
        frame("main", "/job/train.py"),
        frame("PreTrainedModel.from_pretrained", LIBRARY),
        frame("load_state_dict", LIBRARY),
    )
    job = job_at(inside("barrier"), loading)
    job.sample(1, SECOND_LOOK, "S", syscall="openat", blocked_on="/models/shard-3")
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("load.stalled", (1,))
    assert "phase load_state_dict, waiting on /models/shard-3" in verdict.summary
    assert all(finding.culprit_ranks == (1,) for finding in diagnose(job.state))
    assert diagnose(job_at(inside("barrier"), loading, ran_at=6.5).state) == []


def test_a_file_lock_leads_to_the_rank_that_holds_it() -> None:
    locking = (frame("main", "/job/train.py"), frame("build_index", "/job/index.py", 3))
    job = job_at(inside("barrier"), locking, READING)
    job.sample(1, SECOND_LOOK, "S", syscall="flock", blocked_on="/cache/index.lock")
    job.sample(2, SECOND_LOOK, "S", syscall="read", blocked_on="/data/shard-3")
    verdicts = {f.code: f.culprit_ranks for f in diagnose(job.state) if f.role == "root"}
    assert verdicts == {"process.lock_wait": (1,), "process.data_stall": (2,)}
    holder = ev.LockHolder(pid=1002, command=("python", "train.py"))
    looked = ev.LockLooked(host="node1", path="/cache/index.lock", holders=(holder,))
    job.see(SECOND_LOOK, looked)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.data_stall", (2,))
    assert verdict.waiting_ranks == (0, 1)


def test_a_file_lock_of_a_stranger_names_it() -> None:
    locking = (frame("main", "/job/train.py"), frame("build_index", "/job/index.py", 3))
    job = job_at(inside("barrier"), locking)
    job.sample(1, SECOND_LOOK, "S", syscall="flock", blocked_on="/cache/index.lock")
    holder = ev.LockHolder(pid=77, command=("rsync", "/cache"))
    looked = ev.LockLooked(host="node1", path="/cache/index.lock", holders=(holder,))
    job.see(SECOND_LOOK, looked)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.lock_wait", (1,))
    assert any("is held by pid 77: rsync /cache" in e.text for e in verdict.evidence)


SHUTDOWN = (frame("_shutdown", "/usr/lib/python3.11/threading.py", 1590),)
METRICS = (frame("push", "/job/metrics.py", 4),)


def test_a_process_whose_program_is_over_and_what_keeps_it() -> None:
    job = job_at(SHUTDOWN, SHUTDOWN, beside=METRICS)
    job.exit(0, SECOND_LOOK, code=0)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("process.exit_stalled", (1,))
    assert "its thread saver has not ended: it is at metrics.py:4 in push" in verdict.summary
    # Nobody needs its end yet where another rank works.
    busy = job_at(SHUTDOWN, READING)
    moved = ev.StackTaken(
        process=busy.key(1),
        threads=(ev.ThreadStack(name="MainThread", os_thread_id=1001, frames=READING),),
        unchanged_since_ns=int(6.5 * SECOND),
    )
    busy.see(SECOND_LOOK, moved)
    assert diagnose(busy.state) == []
    once = job_at(SHUTDOWN)
    once.stack(0, SECOND_LOOK, SHUTDOWN, {"unchanged_since_ns": int(SECOND_LOOK * SECOND)})
    assert diagnose(once.state) == [], "one look does not show that it stays there"


def lost_its_peer(job: RecordedJob, rank: int, message: str) -> None:
    """The rank is gone, and its log is left."""
    traceback = (f"RuntimeError: {message}",)
    read = ev.ErrorFileRead(
        process=job.key(rank), type_name="RuntimeError", message=message, traceback=traceback
    )
    job.see(SECOND_LOOK, read)
    job.exit(rank, SECOND_LOOK)


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_rank_that_left_its_peers(how: str) -> None:
    message = f"[gloo/transport/tcp/pair.cc:534] Connection {how} by peer [10.0.0.1]:22688"
    job = job_at(READING, inside("all_reduce"), inside("all_reduce"))
    for rank in (1, 2):
        lost_its_peer(job, rank, message)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("group.destroyed", (0,))
    assert verdict.waiting_ranks == (1, 2)
    # Whoever waits has not left anybody, and an unseen rank may have been the one.
    waits = job_at(inside("all_reduce"), inside("all_reduce"))
    lost_its_peer(waits, 1, message)
    partly = job_at(READING, inside("all_reduce"), READING)
    del partly.state.processes[partly.key(2)]
    lost_its_peer(partly, 1, message)
    for other in (waits, partly):
        assert "group.destroyed" not in [finding.code for finding in diagnose(other.state)]


def bring_in(job: RecordedJob, rank: int) -> None:
    """An agent that came when the rank was in its call already."""
    started = ev.ProcessStarted(
        host=job.host(rank), pid=1000 + rank, start_ticks=5, ppid=999, role="rank",
        command=("python", "train.py"), identity=job.identity(rank), attached=True,
        deadlines={"group": 5.0, "collective": 5.0, "init": 5.0},
    )  # fmt: skip
    job.say(rank, 1.5, started)


def test_a_group_that_was_being_created_when_the_agent_came() -> None:
    creating = inside("new_group")
    job = job_at(creating, inside("barrier"), inside("barrier"))
    argue(job, 0, creating, ranks="[0, 1]")
    for rank in range(3):
        bring_in(job, rank)
        job.hold(rank, "0", (0, 1, 2), desc="default_pg", at=1.6)
        entered = (int(rank > 0), 0, 1.6) if rank else (0, 0, 1.6)
        job.pulse(rank, at=SECOND_LOOK, groups={"0": entered})
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("group.call_missing", (1, 2))
    assert "rank 0 waits in new_group ([0, 1])" in verdict.summary
    assert all(0 not in finding.culprit_ranks for finding in diagnose(job.state))


def test_an_initialization_that_was_under_way_when_the_agent_came() -> None:
    creating = inside("init_process_group")
    job = job_at(creating, creating)
    job.world = 3
    for rank in (0, 1):
        job.stand(rank, global_rank=rank, world_size=3)
        job.sight(rank, 1.0)
        bring_in(job, rank)
    verdict = root(diagnose(job.state))
    assert (verdict.code, verdict.culprit_ranks) == ("rendezvous.rank_never_started", (2,))
