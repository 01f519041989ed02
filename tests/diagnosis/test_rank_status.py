"""The word for a rank that is in a step of its own."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.loads import loads_of
from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.state import events as ev
from distwatch.tui.picture import freeze, take_picture
from tests.diagnosis.recorded import READING, RecordedJob, frame
from tests.diagnosis.test_from_outside import LIBRARY, inside, job_at


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


def test_a_rank_of_ray_train_is_where_its_training_thread_is() -> None:
    serves = (frame("Worker.main_loop", "/venv/site-packages/ray/_private/worker.py", 1069),)
    threads = (
        ev.ThreadStack(name="MainThread", os_thread_id=1000, frames=serves),
        ev.ThreadStack(name="TrainingThread(train)", os_thread_id=1001, frames=READING),
    )
    job = RecordedJob(1)
    job.start(0)
    job.see(1.0, ev.StackTaken(process=job.key(0), threads=threads[:1]), job.host(0))
    assert rank_statuses(job.state)[0].where == "worker.py:1069 in Worker.main_loop"
    job.see(2.0, ev.StackTaken(process=job.key(0), threads=threads), job.host(0))
    assert rank_statuses(job.state)[0].where == "data.py:42 in read_shard"


def test_what_has_no_verdict_at_hand_sees_the_job_as_the_verdict_does() -> None:
    """A view of a state alone, or of a frozen one, must not lose what the stacks tell."""
    job = job_at(
        inside("barrier"),
        (frame("main", "/job/train.py"), frame("PreTrainedModel.from_pretrained", LIBRARY)),
    )
    (case,) = cases_of(job.state)
    assert rank_statuses(job.state) == rank_statuses(job.state, case.job)
    assert rank_statuses(job.state)[1].word == "loading"
    assert len(loads_of(job.state)) == len(loads_of(job.state, case.job)) == 1
    still = freeze(take_picture(job.state, "r"))
    assert still.job.ranks[1].loads.keys() == case.job.ranks[1].loads.keys() != set()
