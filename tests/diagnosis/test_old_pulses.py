"""A pulse that stopped says what was true when it stopped, not what its rank does now."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, only_root


def loads_after_a_barrier(peers_completed: int, *, beat: float) -> RecordedJob:
    """Rank 1's last pulse, at `beat`, was written inside barrier #1. Its load last moved at 12 s.

    The others are in #`peers_completed` + 1 since 20 s; all look from outside at 60 s.
    """
    job = RecordedJob(4)
    job.initialize(*range(4))
    job.pulse(1, at=beat, groups={"0": (1, 0, 10.0)})
    if peers_completed:
        job.begin(1, 5, "from_pretrained", 11.0, label="/models/llama")
        job.say(1, 11.0, ev.StepStarted(step=6, name="shards", parent=5))
        job.say(
            1, 12.0, ev.StepProgressed(step=6, done=3, total=5, label="model-00003.safetensors")
        )
    for rank in (0, 2, 3):
        groups = {"0": (peers_completed + 1, peers_completed, 20.0)}
        job.pulse(rank, at=60.0, groups=groups)
    job.tick(60.0)
    return job


def test_a_collective_that_peers_completed_is_not_waited_in() -> None:
    job = loads_after_a_barrier(1, beat=10.5)
    root = only_root(job, "load.stalled", 1)
    assert root.waiting_ranks == (0, 2, 3)


def test_a_rank_whose_pulse_is_new_is_judged_by_it() -> None:
    """Its device may be behind what its peers have completed: it is in its barrier."""
    job = loads_after_a_barrier(1, beat=60.0)
    assert job.state.processes[job.key(1)].open_steps()
    assert not [f for f in diagnose(job.state) if f.code == "load.stalled"]


def test_a_collective_that_nobody_completed_is_still_waited_in() -> None:
    job = loads_after_a_barrier(0, beat=10.5)
    assert not [f for f in diagnose(job.state) if f.code == "collective.rank_missing"]
