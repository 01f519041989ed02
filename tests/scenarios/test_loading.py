"""Checkpoints that stop loading."""

from __future__ import annotations

from tests.support.ranks import launch_ranks


def test_shard_that_cannot_be_read() -> None:
    with launch_ranks("load_stalls", 2) as job:
        job.wait_step("loading", {0, 1}, timeout_s=90)
        finding = job.wait_verdict("load.stalled", {1}, mentions=("from_pretrained",))
        assert finding.waiting_ranks == (0,)
