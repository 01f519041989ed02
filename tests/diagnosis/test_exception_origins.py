"""What an exception began with, and whose failure it is."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.communication import has_timed_out
from distwatch.diagnosis.facts.deaths import deaths_of
from distwatch.diagnosis.facts.exception_origins import origin_of
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, only_root

NOT_SAVED = "torch.distributed.checkpoint.api.CheckpointException"
SHORT = "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
QUOTED = f"""CheckpointException ranks:dict_keys([%s])
Traceback (most recent call last): (RANK 1)
  File "/venv/torch/serialization.py", line 854, in __exit__
    self.file_like.write_end_of_file()
{SHORT}
"""


def failed_save(
    groups: dict[str, tuple[int, ...]], message: str, *, world: int = 4, told: bool = True
) -> RecordedJob:
    """All members of each group raise what some of its members have failed with.

    Args:
        told: whether their calls in the group are known.
    """
    job = RecordedJob(world)
    job.initialize(*range(world))
    for group, members in groups.items():
        for rank in members:
            if told:
                job.hold(rank, group, members, at=2.0)
                gathered = job.operation(rank, "gather", 1, at=5.0, left=5.1, pg_name=group)
                job.pulse(rank, at=5.5, operations=(gathered,))
            job.fail(rank, 6.0, NOT_SAVED, message)
            job.exit(rank, 6.5, code=1)
    job.tick(8.0)
    return job


@pytest.mark.parametrize(
    ("members", "places", "culprits"),
    [
        ((0, 1, 2, 3), "1", {1}),
        ((0, 1, 2, 3), "1, 3", {1, 3}),
        ((0, 1, 2, 3), "1, ", {1}),
        ((2, 3), "1", {3}),  # it names places in the group that saves
    ],
)
def test_a_checkpoint_that_one_rank_cannot_write_is_that_ranks(
    members: tuple[int, ...], places: str, culprits: set[int]
) -> None:
    job = failed_save({"8": members}, QUOTED % places)
    finding = only_root(job, "process.exited", *culprits)
    assert set(finding.waiting_ranks) == set(members) - culprits
    assert f"it began with {SHORT}" in finding.summary
    assert "could not be written whole" in finding.advice


def test_a_place_that_the_group_does_not_have_blames_nobody_more_than_another() -> None:
    """The newest call was in another group than the one that saves: who failed is not known."""
    job = failed_save({"8": (2, 3)}, QUOTED % "7")
    assert set(deaths_of(largest_job(job.state)).own) == {2, 3}


def test_two_groups_that_save_at_once_are_two() -> None:
    job = failed_save({"8": (0, 2), "9": (1, 3)}, QUOTED % "1")
    assert set(deaths_of(largest_job(job.state)).own) == {2, 3}


def test_where_all_ranks_were_told_no_call_need_be_known() -> None:
    """As of a job of which only the logs are left."""
    job = failed_save({"0": (0, 1)}, QUOTED % "1", world=2, told=False)
    assert only_root(job, "process.exited", 1).waiting_ranks == (0,)


def test_a_full_disk_that_all_are_told_of_is_one_ranks() -> None:
    message = (QUOTED % "1").replace(SHORT, "OSError: [Errno 28] No space left on device")
    job = failed_save({"0": (0, 1)}, message, world=2)
    assert only_root(job, "process.limit_reached", 1).waiting_ranks == (0,)


def test_a_lost_peer_is_one_also_where_a_trainer_has_wrapped_it() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    lost = (
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:6562"
    )
    job.say(0, 6.0, ev.ExceptionUncaught(type_name="TrainingFailed", message="", cause=lost))
    job.fail(1, 6.1, "ValueError", "bad batch")
    for rank in (0, 1):
        job.exit(rank, 7.0, code=1)
    job.tick(8.0)
    assert only_root(job, "process.exited", 1).waiting_ranks == (0,)


@pytest.mark.parametrize(
    "cause",
    [
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
    ],
)
def test_what_a_program_has_of_its_own_is_neither_a_lost_peer_nor_a_limit(cause: str) -> None:
    """A connection to its storage, and a lock that another process has."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.say(0, 6.0, ev.ExceptionUncaught(type_name="ValueError", message="shard 17", cause=cause))
    job.fail(1, 6.1, "RuntimeError", "[gloo/transport/tcp/pair.cc] Connection closed by peer")
    for rank in (0, 1):
        job.exit(rank, 7.0, code=1)
    job.tick(8.0)
    assert only_root(job, "process.exited", 0).waiting_ranks == (1,)


def test_a_quoted_error_counts_before_the_first_of_the_chain() -> None:
    worker = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    error = ev.ExceptionUncaught(
        type_name="KeyError", message=f"{worker}  File \"d.py\"\nKeyError: 'image'\n", cause="E: x"
    )
    assert origin_of(error) == "KeyError: 'image'"
    assert origin_of(ev.ExceptionUncaught(type_name="E", message="m", cause="E: x")) == "E: x"
    assert origin_of(ev.ExceptionUncaught(type_name="E", message="m")) == ""


def test_a_refused_connection_is_no_wait_that_was_too_short() -> None:
    """Gloo says of both that it timed out: who was refused had an address, and nobody was late for it."""
    error = "RuntimeError: Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: "
    assert has_timed_out(f"{error}SO_ERROR: Connection timed out, remote=[10.0.0.1]:19349")
    assert not has_timed_out(f"{error}SO_ERROR: Connection refused, remote=[127.0.0.1]:19349")
