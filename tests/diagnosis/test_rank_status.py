"""The word for a rank that is in a step of its own."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from tests.diagnosis.recorded import RecordedJob


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        (["init_process_group"], "initializing"),
        (["initialize", "arrival"], "initializing"),
        (["initialize", "framework groups", "new_group #1"], "initializing"),
        (["new_group #3"], "grouping"),
        (["new_group (members only)"], "grouping"),
        (["init_device_mesh", "new_group #1"], "grouping"),
        (["parallel state #1", "new_group #4"], "grouping"),
        (["split_group"], "grouping"),
        (["from_pretrained", "shards"], "loading"),
        (["from_pretrained", "new_group #1"], "loading"),
        (["from_pretrained", "init_process_group"], "initializing"),
        (["something new"], "initializing"),
    ],
)
def test_a_rank_is_shown_by_what_its_outermost_step_is_for(steps: list[str], word: str) -> None:
    job = RecordedJob(2)
    job.start(0, 1)
    for number, name in enumerate(steps, 1):
        job.begin(0, number, name, at=1.0 + number)
    status = rank_statuses(job.state)[0]
    assert (status.word, status.doing) == (word, steps[-1])
