"""Collectives of a process group beside the default one, by the pulses of its members."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import READING, RecordedJob

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
    assert finding.summary.startswith(
        "rank 1 never entered collective #3 of weight_update, a separate world at 10.0.0.1:29600"
    )


def test_who_is_through_does_not_wait() -> None:
    """A receiver of a broadcast is done with it while the sender still waits for another receiver."""
    job = synced((3, 2, 10.0), (3, 3, 10.0), (2, 2, 9.0))
    assert told(job) == [("collective.rank_missing", "root", (2,), (0,))]


def test_within_the_deadline_and_where_nobody_waits_nothing_is_said() -> None:
    assert told(synced((3, 2, 390.0), (2, 2, 9.0))) == []
    assert told(synced((3, 3, 10.0), (2, 2, 9.0))) == []


def test_where_all_have_entered_nobody_is_blamed() -> None:
    job = synced((3, 2, 10.0), (3, 2, 10.0))
    assert told(job) == [("collective.device_behind", "root", (), (0, 1))]


def test_a_member_that_is_not_observed_is_named_with_doubt() -> None:
    """As in the default group: every member that is observed waits."""
    job = synced((3, 2, 10.0), (2, 2, 9.0))
    for process in job.state.processes.values():
        if process.global_rank == 1:
            process.outside.pulse = None
    assert told(job) == [("collective.rank_missing", "root", (1,), (0,))]
    (finding,) = [f for f in diagnose(job.state) if f.pg_name == SYNC]
    assert finding.confidence < 0.9


def test_a_circle_of_such_a_group_and_the_default_one() -> None:
    """Rank 1 waits in its own world for ranks that wait for it there."""
    job = synced((3, 2, 10.0), (2, 2, 9.0), (3, 2, 10.0), own=9.0)
    assert ("collective.cycle", "root", (0, 1), (2,)) in told(job)
    assert ("collective.rank_missing", "symptom", (), (0, 2)) in told(job)


def two_worlds(*at: tuple[int, int, float], now: float = 400.0) -> RecordedJob:
    """A trainer's world of ranks 0 and 1, and an engine's of two: trainer's rank 0 is member 0, the engine's
    ranks are members 1 and 2. The trainer's rank 1 waits for its rank 0 in an all_reduce of their own.
    """
    job = RecordedJob(2)
    worlds = {0: (0, 29500), 1: (1, 29500), 2: (0, 29600), 3: (1, 29600)}
    for process, (rank, port) in worlds.items():
        job.stand(process, global_rank=rank, world_size=2, master_port=port)
        job.enter(process)
    for process in worlds:
        job.form(process)
        own = (2, 1, 20.0) if process == 1 else (1, 1, 3.0)
        job.pulse(process, at=now, groups={"0": own})
    for member, process in enumerate((0, 2, 3)):
        joined = ev.ExtraGroupJoined(
            number=1, step=90, endpoint="10.0.0.1:29700", name=SYNC, group_rank=member,
            size=3, of_name=1, via="process group",
        )  # fmt: skip
        job.say(process, 3.0, joined)
        job.pulse(process, at=now, groups={SYNC: at[member], "0": (1, 1, 3.0)})
    job.tick(now)
    return job


def test_a_member_of_another_world_is_named_in_its_own_and_the_waiting_one_is_no_culprit() -> None:
    found = diagnose(two_worlds((3, 2, 10.0), (3, 3, 10.0), (2, 2, 9.0)).state)
    assert [(f.code, f.role, f.culprit_ranks, f.waiting_ranks) for f in found if f.blocks] == [
        ("collective.rank_missing", "root", (1,), ()),
        ("collective.rank_missing", "symptom", (), (1,)),
    ]
    assert "rank 1 never entered collective #3 of weight_update" in found[0].summary
    assert "rank 0 of another world (pid 1000) has waited in it" in found[0].summary


def test_what_keeps_a_member_is_told_with_all_who_wait_for_it_in_any_world() -> None:
    job = two_worlds((3, 2, 10.0), (3, 2, 10.0), (2, 2, 9.0))
    job.stack(3, 401.0, READING)
    job.sample(3, 401.0, "S", syscall="read", blocked_on="/mnt/data/shard-2")
    job.tick(401.0)
    first = diagnose(job.state)[0]
    assert (first.code.partition(".")[0], first.culprit_ranks) == ("process", (1,))
    assert "rank 0 and rank 0 of another world (pid 1000) have waited" in first.summary


def test_both_sides_are_named_with_their_places_in_their_frameworks() -> None:
    job = two_worlds((3, 2, 10.0), (3, 3, 10.0), (2, 2, 9.0))
    for process, framework in ((0, "megatron"), (3, "sglang")):
        group = ev.HeldGroup(role="TP", axis="tp", pg_name="tp", members=(0, 1))
        job.say(process, 4.0, ev.LayoutHeld(framework=framework, groups=(group,)))
    first = diagnose(job.state)[0]
    assert "rank 0 of another world (pid 1000, tensor rank 0 of 2 in megatron)" in first.summary
    assert "(tensor rank 1 of 2 in sglang)" in first.summary


def test_members_of_two_worlds_that_disagree_about_a_tensor() -> None:
    job = two_worlds((3, 2, 10.0), (3, 2, 10.0), (3, 2, 10.0))
    for member, process in enumerate((0, 2, 3)):
        called = ev.Operation(
            number=3, op="broadcast", pg_name=SYNC, seq=3, numel=8 if member == 0 else 4,
            dtype="float32", entered_ns=10_000_000_000,
        )  # fmt: skip
        progress = {SYNC: (3, 2, 10.0), "0": (1, 1, 3.0)}
        job.pulse(process, at=401.0, groups=progress, operations=(called,))
    job.tick(401.0)
    (finding,) = [f for f in diagnose(job.state) if f.code == "collective.shape_mismatch"]
    assert (finding.role, finding.culprit_ranks) == ("root", (0,))
    assert "disagree about collective #3" in finding.summary
    assert "rank 0 passed" in finding.summary


def test_a_circle_of_a_joint_group_and_an_engines_own_world() -> None:
    """The engine's rank 1 waits for its rank 0 in a barrier of their own, and rank 0 for it in the joint group."""
    job = two_worlds((3, 2, 10.0), (3, 2, 10.0), (2, 2, 9.0))
    job.pulse(3, at=401.0, groups={SYNC: (2, 2, 9.0), "0": (2, 1, 9.0)})
    job.tick(401.0)
    found = [f for f in diagnose(job.state) if f.blocks]
    assert [(f.code, f.culprit_ranks) for f in found if f.role == "root"] == [
        ("collective.cycle", (0, 1))
    ]
    assert SYNC in found[0].summary


def test_a_send_to_an_engine_that_does_not_receive_it() -> None:
    """As RLinf hands weights over: member 0 sends to member 2, which is the engine's rank 1."""
    job = two_worlds((0, 0, 3.0), (0, 0, 3.0), (0, 0, 3.0))
    sent = ev.Operation(
        number=1, op="send", pg_name=SYNC, p2p_seq=1, peer=2, numel=4, dtype="float32",
        entered_ns=10_000_000_000,
    )  # fmt: skip
    peers = (ev.PeerProgress(pg_name=SYNC, op="send", peer=2, tag=0, posted=1),)
    job.pulse(0, at=401.0, groups={"0": (1, 1, 3.0)}, operations=(sent,), peers=peers)
    job.stack(3, 401.0, READING)
    job.tick(401.0)
    found = [f for f in diagnose(job.state) if f.blocks and f.role == "root"]
    assert [(f.code, f.culprit_ranks) for f in found] == [("p2p.unmatched", (1,))]
    assert "rank 0 of another world (pid 1000)" in found[0].summary
