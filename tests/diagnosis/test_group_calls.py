"""Process groups that ranks make in different ways, and calls that torch refuses."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import READING, RecordedJob, judged, only_root, root

Members = tuple[int, ...] | None


def called(
    sequences: dict[int, list[Members]], *, stuck: tuple[int, ...] | None = None
) -> RecordedJob:
    """Ranks that made these calls of `new_group`, and stay in the last one."""
    job = RecordedJob(len(sequences))
    job.initialize(*sequences)
    for rank, sequence in sequences.items():
        for number, members in enumerate(sequence, start=1):
            last = number == len(sequence) and (stuck is None or rank in stuck)
            job.call_group(rank, 2.0 + number / 10, number, members, stays=last)
    return job


def wait(job: RecordedJob, until: float) -> None:
    """Time passes, and every rank's heart beats."""
    for rank in range(job.world):
        job.pulse(rank, at=until, groups={"0": (0, 0, 2.0)})
    job.tick(until)


def test_other_members_under_one_number() -> None:
    job = called({0: [(0, 1)], 1: [(0, 1)], 2: [(0, 1)], 3: [(2, 3)]})
    wait(job, 3.0)
    assert judged(job) == []
    wait(job, 5.0)
    verdict = only_root(job, "group.members_disagree", 3)
    assert "new_group #1" in verdict.summary
    assert "ranks 0-2 called it for ranks 0-1" in verdict.summary
    assert verdict.waiting_ranks == (0, 1, 2)
    assert any("train.py:101" in evidence.text for evidence in verdict.evidence)


def test_of_two_halves_those_that_differ_from_rank_0_are_named_less_surely() -> None:
    """Each rank asks only for the group that it is in."""
    job = called({0: [(0, 1)], 1: [(0, 1)], 2: [(2, 3)], 3: [(2, 3)]})
    wait(job, 30.0)
    verdict = only_root(job, "group.members_disagree", 2, 3)
    assert verdict.confidence < 0.7
    assert "loop over all groups on every rank" in verdict.advice


def test_calls_after_it_that_agree_again() -> None:
    job = called({0: [(0, 1), None], 1: [(0, 2), None], 2: [(0, 1), None]})
    wait(job, 9.0)
    only_root(job, "group.members_disagree", 1)


def test_one_call_too_many() -> None:
    everybody = None
    job = called({0: [(0, 1), everybody], 1: [(1, 2), (0, 1), everybody], 2: [(0, 1), everybody]})
    wait(job, 9.0)
    verdict = only_root(job, "group.counter_skew", 1)
    assert "one new_group call more" in verdict.summary
    assert verdict.waiting_ranks == (0, 2)
    assert verdict.confidence > 0.9


def test_one_call_too_few() -> None:
    job = called({0: [(0, 1), (0, 2), None], 1: [(0, 1), (0, 2), None], 2: [(0, 2), None]})
    wait(job, 9.0)
    verdict = only_root(job, "group.counter_skew", 2)
    assert "one new_group call fewer" in verdict.summary


def test_a_skew_between_two_is_one_finding() -> None:
    """Rank 0 makes a group of its own first, which needs nobody."""
    job = called({0: [(0,), (0, 1)], 1: [(0, 1)]})
    wait(job, 60.0)
    verdict = only_root(job, "group.counter_skew", 1)
    assert verdict.confidence < 0.7
    assert verdict.waiting_ranks == (0,)


def test_a_call_that_one_rank_has_not_made_is_no_skew() -> None:
    """pt#134314."""
    job = called({0: [(0, 1)], 1: []})
    job.stack(1, 9.0, READING)
    wait(job, 30.0)
    only_root(job, "group.call_missing", 1)


def test_who_waits_in_an_earlier_group_is_not_blamed_for_a_later_one() -> None:
    """The groups of a 2 × 2 mesh: the others came to theirs later than rank 2 to its last one."""
    groups: list[Members] = [(0, 2), (1, 3), (0, 1), (2, 3)]
    job = called({0: groups[:2], 1: [], 2: groups, 3: groups[:1]}, stuck=(2,))
    job.call_group(3, 4.0, 2, groups[1], stays=True)
    job.call_group(0, 4.0, 3, groups[2], stays=True)
    for waited_s in (0.1, 3.0):
        wait(job, 2.4 + job.deadlines["group"] + waited_s)
        assert root(judged(job)).culprit_ranks == (1,), f"after {waited_s} s"


def test_it_stays_the_verdict_once_the_barrier_has_timed_out() -> None:
    job = called({0: [(0, 1)], 1: []})
    entered = job.operation(1, "barrier", 1, at=2.0, left=20.0)
    job.pulse(1, at=20.0, groups={"0": (1, 1, 20.0)}, operations=(entered,))
    job.pulse(0, at=20.0, groups={"0": (0, 0, 2.0)})
    gloo = "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 18000ms for recv operation"
    job.fail(1, 20.0, "RuntimeError", gloo)
    job.exit(1, 20.2, code=1)
    job.say(0, 20.5, ev.StepEnded(step=101, error="RuntimeError: gloo: Connection closed by peer"))
    job.fail(0, 20.5, "RuntimeError", "[gloo/transport/tcp/pair.cc] Connection closed by peer")
    job.exit(0, 20.7, code=1)
    assert only_root(job, "group.call_missing", 1).waiting_ranks == (0,)


def test_groups_that_nobody_waits_in_may_be_made_in_any_way() -> None:
    job = called({0: [(0,), (0, 1)], 1: [(1,), (0, 1)]}, stuck=())
    for rank in (0, 1):
        job.pulse(rank, at=60, groups={"0": (9, 9, 59.0)})
    job.tick(60.0)
    assert judged(job) == []


def test_a_collective_that_hangs_after_it() -> None:
    job = called({0: [(0, 1), None], 1: [(0, 1), None], 2: [(1, 2), None]}, stuck=())
    for rank in (0, 1, 2):
        job.pulse(rank, at=30, groups={"0": (5, 4, 10.0) if rank else (4, 4, 9.0)})
    job.tick(30.0)
    assert judged(job)[0].code == "group.members_disagree"


def test_ranks_that_met_the_wrong_ones_end_well_and_are_not_to_blame() -> None:
    """The names of both groups are one: ranks 0 and 2 connect, and rank 1 is left over."""
    job = called({0: [(0, 1)], 1: [(0, 1)], 2: [(1, 2)]}, stuck=())
    for rank in (0, 2):
        job.exit(rank, 4.0, code=0)
    job.fail(1, 4.1, "RuntimeError", "[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    job.exit(1, 4.3, code=1)
    assert only_root(job, "group.members_disagree", 2).waiting_ranks == (1,)


# ---- meshes -------------------------------------------------------------------------------------


def test_meshes_of_other_sizes() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in range(4):
        job.mesh(rank, 2.0, {"tp": 4} if rank == 2 else {"dp": 2, "tp": 2})
    job.tick(3.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("group.layout_disagrees", "warning")
    for rank in range(4):
        job.pulse(rank, at=30, groups={"0": (1, -1, 5.0)} if rank != 2 else {"0": (0, 0, 5.0)})
    job.tick(30.0)
    verdict = judged(job)[0]
    assert (verdict.code, verdict.severity) == ("group.layout_disagrees", "hang")
    assert verdict.culprit_ranks == (2,)
    assert "dp 2 × tp 2" in verdict.summary
    assert any("train.py:52" in evidence.text for evidence in verdict.evidence)


def test_a_mesh_that_hangs_while_it_is_built() -> None:
    """The groups inside it have other members, which is how the ranks come to be stuck."""
    job = RecordedJob(4)
    job.initialize(*range(4))
    for rank in range(4):
        label = "tp 2 × dp 2" if rank == 3 else "dp 2 × tp 2"
        job.begin(rank, 50, "init_device_mesh", 2.0, label=label)
        job.call_group(rank, 2.0, 1, (0, 2) if rank == 3 else (0, 1), stays=True)
    wait(job, 9.0)
    findings = judged(job)
    assert [(f.code, f.role) for f in findings] == [
        ("group.layout_disagrees", "root"),
        ("group.members_disagree", "symptom"),
    ]
    assert findings[0].culprit_ranks == findings[1].culprit_ranks == (3,)


def test_the_same_meshes_are_no_finding() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        job.mesh(rank, 2.0, {"dp": 2})
        job.mesh(rank, 2.1, {"tp": 2})
    job.tick(60.0)
    assert judged(job) == []


# ---- calls that torch refuses --------------------------------------------------------------------


def test_a_mesh_that_is_larger_than_the_world() -> None:
    job = RecordedJob(4)
    job.initialize(*range(4))
    error = "Mesh should not be bigger than default world size 4, but found 6 ranks!"
    for rank in range(4):
        job.begin(rank, 9, "init_device_mesh", 2.0, label="2 × 3")
        job.say(rank, 2.1, ev.StepEnded(step=9, error=f"RuntimeError: {error}"))
        job.fail(rank, 2.1, "RuntimeError", error)
        job.exit(rank, 2.3, code=1)
    verdict = only_root(job, "group.size_invalid", 0, 1, 2, 3)
    assert "1, 2, 4" in verdict.advice
    assert verdict.severity == "crash"


def test_sizes_that_do_not_divide_the_world() -> None:
    job = RecordedJob(3)
    job.start(0)
    job.fail(
        0, 1.0, "distwatch.errors.PlanInvalid", "a world of 3 cannot be divided by tensor 2 = 2"
    )
    job.exit(0, 1.2, code=1)
    only_root(job, "group.size_invalid", 0)


TWICE = "ValueError: trying to initialize the default process group twice!"


def second_init(*, uncaught: bool) -> RecordedJob:
    job = RecordedJob(2)
    job.enter(0, 1)
    job.form(0, 1)
    job.enter(1, at=5.0, step=11, number=2)
    job.say(1, 5.0, ev.StepEnded(step=12, error=TWICE))
    job.refuse(1, 5.0, TWICE, step=11, uncaught=uncaught)
    return job


def test_a_second_initialization() -> None:
    verdict = only_root(second_init(uncaught=True), "group.already_initialized", 1)
    assert verdict.severity == "crash"
    first = [e.text for e in verdict.evidence if "first initialized" in e.text]
    assert "train.py:11" in first[0]


def test_a_second_initialization_that_is_caught_takes_nothing_away() -> None:
    job = second_init(uncaught=False)
    job.tick(60.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("group.already_initialized", "warning")


def test_another_plan_of_ours() -> None:
    job = RecordedJob(1)
    job.initialize(0)
    job.fail(
        0,
        5.0,
        "distwatch.errors.AlreadyInitialized",
        "this process already has a world with another plan: …",
    )
    job.exit(0, 5.2, code=1)
    only_root(job, "group.already_initialized", 0)


NOT_THERE = (
    "Default process group has not been initialized, please make sure to call init_process_group."
)


def test_a_group_that_does_not_exist() -> None:
    job = RecordedJob(2)
    job.enter(0)
    job.start(1)
    job.fail(1, 1.5, "ValueError", NOT_THERE)
    job.exit(1, 1.7, code=1)
    verdict = only_root(job, "group.not_initialized", 1)
    assert "never called" in verdict.summary
    assert verdict.waiting_ranks == (0,)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("world group is not initialized", 'framework="sglang"'),
        ("tensor model parallel group is not initialized", 'framework="megatron"'),
        ("has to be initialized in a distributed env", 'framework="neuron"'),
    ],
)
def test_the_call_that_makes_it(words: str, call: str) -> None:
    package = {"sglang": "sglang", "megatron": "megatron/core", "neuron": "neuronx_distributed"}
    name = call.split('"')[1]
    job = RecordedJob(1)
    job.status[0] = Identity()
    job.start(0)
    error = ev.ExceptionUncaught(
        type_name="AssertionError",
        message=words,
        traceback=(
            f'  File "/venv/site-packages/{package[name]}/parallel_state.py", line 5, in get',
        ),
    )
    job.say(0, 1.0, error)
    job.exit(0, 1.2, code=1)
    job.plan(0, 0.5, global_rank=0, world_size=1, endpoint="localhost:1")
    assert call in only_root(job, "group.not_initialized", 0).advice


def test_who_only_cleans_up_after_a_lost_peer_is_a_victim() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.exit(1, 9.0, signal=9)
    lost = "torch.distributed.DistBackendError: NCCL error: remote process exited"
    error = ev.ExceptionUncaught(
        type_name="ValueError",
        message=NOT_THERE,
        traceback=(lost, "During handling of the above exception", f"ValueError: {NOT_THERE}"),
    )
    job.say(0, 9.5, error)
    job.exit(0, 9.7, code=1)
    assert all(finding.code != "group.not_initialized" for finding in judged(job))


def test_a_collective_on_a_group_of_others() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    site = ev.Site(file="/job/train.py", line=77, function="step")
    job.say(1, 5.0, ev.NonMemberCalled(op="all_reduce", site=site))
    job.tick(60.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("group.not_member", "warning")
    assert finding.culprit_ranks == (1,)
    assert "train.py:77" in finding.evidence[0].text


@pytest.mark.parametrize(
    "message", ["Global rank 1 is not part of group <x>", "Invalid process group specified"]
)
def test_a_group_that_refuses_the_rank(message: str) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.fail(1, 5.0, "ValueError", message)
    job.exit(1, 5.2, code=1)
    assert only_root(job, "group.not_member", 1).severity == "crash"
