"""What all rings of a user may take: a quarter of the memory, whatever is started."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.support.small_memory import run_in_small_memory
from tests.support.without_torch import needs_torch

MIB = 1 << 20
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def root() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="dw-", dir="/tmp")
    yield path
    shutil.rmtree(path)


def test_forty_ranks_at_once_take_a_quarter_and_one_of_them_says_so(root: str) -> None:
    told = json.loads(run_in_small_memory(16, "tests.agent.small_memory", "together", root))
    assert told["taken"] <= 4 * MIB
    assert len(told["rings"]) == told["on"] > 2
    assert told["rings"][0] < MIB
    assert told["rings"][-1] >= MIB / 2
    (warning,) = told["said"]
    assert "of the 16 MiB at /dev/shm" in warning
    assert "the most is 4.0 MiB" in warning
    assert "`distwatch clean` frees what ended runs hold" in warning
    assert os.path.exists(f"{root}/r/memory.short")


def test_a_rank_that_finds_no_room_has_that_of_the_dead_freed(root: str) -> None:
    told = json.loads(run_in_small_memory(16, "tests.agent.small_memory", "after", root))
    assert told["states"] == ["off", "on"]


@needs_torch
def test_launches_that_are_killed_again_and_again_leave_room_for_a_data_loader(root: str) -> None:
    told = json.loads(run_in_small_memory(16, "tests.agent.small_memory", "repeated", root))
    assert told["most"] <= 5 * MIB
    assert told["loaded"] == 64
    assert told["left"] == []
