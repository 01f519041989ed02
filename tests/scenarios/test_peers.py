"""Sends and recvs that do not find each other, on real gloo ranks."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.model import RunState
from tests.support.ranks import launch_ranks
from tests.support.verdicts import assert_healthy

UNMATCHED, CYCLE = "p2p.unmatched", "p2p.cycle"


@pytest.mark.parametrize(
    ("case", "world", "code", "culprits", "mentions"),
    [
        ("never_sent", 2, "process.data_stall", {0}, ("read_next_shard", "recv #4 from rank 0")),
        ("never_received", 3, "process.data_stall", {1}, ("read_next_shard", "send #4 to rank 1")),
        ("async_recv", 2, UNMATCHED, {0}, ("peers.py", "recv #4 from rank 0", "3 sends")),
        ("other_tag", 2, UNMATCHED, {0, 1}, ("tag 1", "tag 2")),
        ("ring_of_recvs", 3, CYCLE, {0, 1, 2}, ("recv #1 from rank 2", "receive_from")),
        ("ring_of_sends", 3, CYCLE, {0, 1, 2}, ("send #1 to rank 0", "send_to")),
        ("recv_against_barrier", 3, UNMATCHED, {0, 1}, ("barrier", "recv #4 from rank 0")),
        ("pipeline", 4, "process.data_stall", {1}, ("read_next_shard", "send #4 to rank 1")),
        ("one_microbatch_fewer", 3, UNMATCHED, {0, 1}, ("recv #7 from rank 0",)),
        ("batch", 4, UNMATCHED, {2, 3}, ("recv #4 from rank 2",)),
        ("crossed_groups", 2, "collective.cycle", {0, 1}, ("first", "second", "different orders")),
    ],
)  # fmt: skip
def test_calls_without_their_other_side(
    case: str, world: int, code: str, culprits: set[int], mentions: tuple[str, ...]
) -> None:
    with launch_ranks("peers", world, args=(case,)) as job:
        job.wait_step("ready", set(range(world)))
        job.wait_verdict(code, culprits, mentions=mentions)


def test_whoever_stands_behind_a_stuck_stage_only_waits() -> None:
    with launch_ranks("peers", 4, args=("pipeline",)) as job:
        finding = job.wait_verdict("process.data_stall", {1})
        assert set(finding.waiting_ranks) == {0, 2, 3}
        symptoms = [found for found in diagnose(job.state()) if found.role == "symptom"]
        assert {found.code for found in symptoms} == {UNMATCHED}
        assert {rank for found in symptoms for rank in found.culprit_ranks} <= {1}


def test_the_verdict_about_peers_stands_after_all_were_killed() -> None:
    with launch_ranks("peers", 3, args=("ring_of_recvs",)) as job:
        job.wait_verdict(CYCLE, {0, 1, 2})
        job.kill_everything(observer=True)
        assert diagnose(job.state())[0].code == CYCLE


def test_a_pipeline_that_moves_is_healthy() -> None:
    with launch_ranks("peers", 3, args=("healthy",)) as job:
        job.wait_step("passed", {0, 1, 2})

        def told_peers(state: RunState) -> bool:
            pulses = [p.outside.pulse for p in state.processes.values() if p.outside.pulse]
            return sum(peer.posted for pulse in pulses for peer in pulse.peers) == 4 * 53

        job.wait_state(told_peers)
        for rank in range(3):
            job.open_gate("end", rank)
        assert job.wait_ended() == [0, 0, 0]
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())
