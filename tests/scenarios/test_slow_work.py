"""Ranks at work that has stopped moving, and ranks that the library ends for what they receive."""

from __future__ import annotations

import pytest

from tests.support.ranks import launch_ranks


@pytest.mark.parametrize(
    ("script", "way", "code", "culprits", "mentions"),
    [
        (
            "outside_waits",
            "http",
            "process.network_wait",
            {1},
            ("127.0.0.1:", "localhost:", "ask_tracker"),
        ),
        ("saves", "dcp", "checkpoint.save_stalled", {1}, ("writing", "part.distcp", "so far")),
        (
            "library_aborts",
            "ddp_order",
            "collective.shape_mismatch",
            {0, 1},
            ("C++ called", "received", "bytes"),
        ),
        (
            "library_aborts",
            "splits",
            "collective.shape_mismatch",
            {0, 1},
            ("which expects 2", "gives [2, 4]"),
        ),
    ],
)
def test_what_moves_nothing(
    script: str, way: str, code: str, culprits: set[int], mentions: tuple[str, ...]
) -> None:
    with launch_ranks(script, 2, args=(way, "1")) as job:
        job.wait_verdict(code, culprits, mentions=mentions)
