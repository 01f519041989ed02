"""Ranks at work that has stopped moving, and ranks that the library ends for what they receive."""

from __future__ import annotations

import pytest

from distwatch.state.model import RunState
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


def test_an_abort_in_a_call_from_cpp() -> None:
    def has_trained(state: RunState) -> bool:
        pulses = [p.outside.pulse for p in state.processes.values() if p.role == "rank"]
        return len(pulses) == 2 and all(
            pulse is not None and any(group.completed > 3 for group in pulse.groups)
            for pulse in pulses
        )

    with launch_ranks("library_aborts", 2, args=("ddp_order", "1")) as job:
        job.wait_step("gate order", {0, 1})
        job.wait_state(has_trained)
        for rank in (0, 1):
            job.open_gate("order", rank)
        told = ("C++ called", "received", "bytes")
        job.wait_verdict("collective.shape_mismatch", {0, 1}, mentions=told)
