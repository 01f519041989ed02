"""What is passed on of the numbers that torch's flight recorder tells; its answers are doubles of recorded ones."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from distwatch.integrations import torch_recorder
from distwatch.integrations.call_counts import Counts
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.integrations.torch_recorder import LOOKED_CLOSER_S, FlightRecorder


class Recorder:
    """The flight recorder with torch's answers about one group, at a time that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: str = "gloo") -> None:
        self.now_s, self.enqueued, self.completed = 100.0, 0, 0
        self.over: set[int] = set()
        self.asked_for_entries = 0
        known = cast("KnownGroups", SimpleNamespace(created={backend: ["0"]}))
        self.recorder = FlightRecorder(known, Counts())
        self.recorder._dumps = {backend: self._answer}
        clock = SimpleNamespace(monotonic_ns=lambda: int(self.now_s * 1e9))
        monkeypatch.setattr(torch_recorder, "time", clock)

    def _answer(self, includeCollectives: bool = True) -> str:
        content: dict[str, Any] = {
            "pg_status": {
                "0": {
                    "last_enqueued_collective": str(self.enqueued),
                    "last_completed_collective": str(self.completed),
                    "last_started_collective": "-1",
                }
            }
        }
        if includeCollectives:
            self.asked_for_entries += 1
            content["entries"] = [
                {
                    "pg_id": 0,
                    "process_group": ["0", "default_pg"],
                    "collective_seq_id": seq,
                    "profiling_name": "gloo:all_reduce",
                    "state": "scheduled",
                    "retired": seq in self.over,
                }
                for seq in range(1, self.enqueued + 1)
            ]
        return json.dumps(content)

    def seen(self) -> tuple[int, int, float]:
        (progress,) = self.recorder.progress()
        return progress.enqueued, progress.completed, progress.changed_ns / 1e9


def test_a_call_that_is_over_by_its_entry_is_waited_in_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy host torch 2.13 told 419 of 420 for ever, whose entry was retired."""
    torch = Recorder(monkeypatch)
    torch.enqueued, torch.completed, torch.over = 3, 2, {1, 2, 3}
    assert torch.seen() == (3, 2, 100.0)
    torch.now_s += LOOKED_CLOSER_S
    assert torch.seen() == (3, 3, 100.0)
    torch.now_s += 60.0
    assert torch.seen() == (3, 3, 100.0)
    assert torch.asked_for_entries == 1
    torch.enqueued = 4
    assert torch.seen() == (4, 3, 162.0)


def test_a_call_that_was_over_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Recorder(monkeypatch)
    torch.enqueued, torch.completed = 3, 3
    assert torch.seen() == (3, 3, 100.0)
    torch.completed = 2
    assert torch.seen()[:2] == (3, 3)


def test_a_call_that_is_not_over_by_its_entry_is_waited_in(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Recorder(monkeypatch)
    torch.enqueued, torch.completed, torch.over = 3, 2, {1, 2}
    for now_s in range(100, 200):
        torch.now_s = now_s
        assert torch.seen() == (3, 2, 100.0)
    assert torch.asked_for_entries == 6, "after 2, 4, 8, 16, 32 and 64 s"
    torch.over.add(3)
    torch.now_s = 100.0 + 128
    assert torch.seen() == (3, 3, 100.0)


def test_a_call_that_is_open_before_one_that_is_over_is_waited_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = Recorder(monkeypatch)
    torch.enqueued, torch.completed, torch.over = 4, 1, {1, 2, 4}
    torch.seen()
    torch.now_s += LOOKED_CLOSER_S
    assert torch.seen() == (4, 2, 100.0)


def test_nccl_notes_ends_in_order_so_its_entries_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = Recorder(monkeypatch, "nccl")
    torch.enqueued, torch.completed = 3, 2
    torch.seen()
    torch.now_s += 100.0
    assert torch.seen() == (3, 2, 100.0)
    assert not torch.asked_for_entries
